// Parts of a page that change are fetched again, as often as the server allows; what is in use is left alone.
const connection = document.querySelector("#connection");

function isInUse(part) {
  const active = document.activeElement;
  return part.contains(active) && active.matches("input, textarea, select");
}

function tell(words) {
  connection.hidden = !words;
  connection.textContent = words;
}

function replace(part, text) {
  const fresh = new DOMParser().parseFromString(text, "text/html").body;
  const open = [...part.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  const chosen = [...part.querySelectorAll("input:checked")].map((box) => box.value);
  const focused = part.contains(document.activeElement) ? document.activeElement.textContent : null;
  part.replaceChildren(...fresh.childNodes);
  for (const summary of part.querySelectorAll("summary")) if (open.includes(summary.textContent)) summary.parentElement.open = true;
  for (const box of part.querySelectorAll("input[type=checkbox]")) box.checked = chosen.includes(box.value);
  if (focused !== null) [...part.querySelectorAll("a, button, summary")].find((each) => each.textContent === focused)?.focus();
  document.dispatchEvent(new Event("renewed"));
}

async function follow(part) {
  let pause = 2;
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000 * pause));
    if (document.hidden) continue;
    try {
      const response = await fetch(part.dataset.live, { headers: { accept: "text/html", "x-version": part.dataset.version } });
      if (response.status === 403) { tell("This page was opened too long ago. Open the address that `e2ed2 watch` printed."); pause = 10; continue; }
      if (response.status === 404) { tell("This is no longer there."); pause = 10; continue; }
      tell("");
      pause = Number(response.headers.get("x-next")) || 2;
      if (response.status !== 200) continue;
      const text = await response.text();
      if (isInUse(part)) { pause = 1; continue; }
      replace(part, text);
      part.dataset.version = response.headers.get("x-version");
    } catch {
      tell("The server does not answer. This page goes on as soon as it does; trainings do not need it.");
      pause = 2;
    }
  }
}

for (const part of document.querySelectorAll("[data-live]")) follow(part);
