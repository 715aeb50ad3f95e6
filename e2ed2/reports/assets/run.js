// The page of a run: a slider over its previews; and, while the run lives, a file that follows it.
const EVERY = 20, SILENT = 900; // seconds: between two looks at the file, and until its silence is told
const chosen = "update of " + location.pathname;
let kept = null; // the update that somebody chose; null: the newest
try { kept = sessionStorage.getItem(chosen); } catch { /* a page that may store nothing */ }

function show() {
  for (const slider of document.querySelectorAll(".slider")) {
    const steps = slider.dataset.steps.split(" "), range = slider.querySelector("input");
    const at = steps.indexOf(kept);
    range.value = at < 0 ? steps.length - 1 : at;
    slider.hidden = false;
    draw(slider);
  }
}

function draw(slider) {
  const steps = slider.dataset.steps.split(" "), range = slider.querySelector("input");
  const words = Number(steps[range.value]).toLocaleString("en");
  slider.querySelector("output").textContent = words;
  range.setAttribute("aria-valuetext", words + " updates");
  for (const picture of document.querySelectorAll("img[data-over]")) picture.src = picture.dataset.over.split(" ")[range.value];
}

document.addEventListener("input", (event) => {
  const slider = event.target.closest(".slider");
  if (!slider) return;
  const steps = slider.dataset.steps.split(" "), at = Number(event.target.value);
  kept = at === steps.length - 1 ? null : steps[at];
  try { kept === null ? sessionStorage.removeItem(chosen) : sessionStorage.setItem(chosen, kept); } catch { /* as above */ }
  draw(slider);
});
document.addEventListener("renewed", show); // parts of the page were replaced

function age() {
  const seconds = Date.now() / 1000 - document.body.dataset.written;
  const words = seconds < 90 ? "just now" : seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
  const silent = " Nothing was heard since: it may be at a long evaluation, or was ended without a word; then the command below goes on.";
  document.querySelector("#age").textContent = `Written ${words}.` + (seconds > SILENT ? silent : " This page follows the run.");
}

if (document.body.dataset.written) {
  age();
  setInterval(age, 5000);
  setInterval(() => {
    const busy = document.activeElement?.matches("input") || document.querySelector("details[open]") || document.hidden;
    const shut = location.protocol !== "file:" && origin === "null"; // a sandbox, which may not come back
    if (!busy && !shut) location.reload();
  }, EVERY * 1000);
}
show();
