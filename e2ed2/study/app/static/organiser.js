// The organiser's page, live: its parts are fetched again, but for one in which somebody is writing.
const EVERY = 3000; // milliseconds
const title = document.title;

function isInUse(part) {
  return part.contains(document.activeElement) || [...part.querySelectorAll("input")].some((field) => field.value);
}

async function refresh() {
  if (document.hidden && document.querySelector("#hands").dataset.waiting !== "0") return; // the title tells already
  const response = await fetch("/organiser/live", { headers: { accept: "text/html" } });
  if (response.status === 403) return location.reload();
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (next && !isInUse(part)) part.replaceWith(next);
  }
  tell();
}

function tell() {
  const waiting = document.querySelector("#hands").dataset.waiting;
  document.title = waiting === "0" ? title : `(${waiting}) ${title}`;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const link = location.origin + button.dataset.copy;
  if (!navigator.clipboard) return prompt(button.ariaLabel, link); // an address without TLS has none
  await navigator.clipboard.writeText(link);
  button.textContent = document.body.dataset.copied;
});

setInterval(() => refresh().catch(() => {}), EVERY);
tell();
