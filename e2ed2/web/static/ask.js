// A form whose answers are shown below it: what would be trained, or a picture of each model that is chosen.
const form = document.querySelector("#ask"), answers = document.querySelector("#answers"), progress = document.querySelector("#progress");

async function ask(fields) {
  const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(fields), headers: { accept: "text/html, application/json;q=0.5" } })
    .catch(() => null);
  if (response === null) return said("The server does not answer.");
  const text = await response.text();
  const fresh = new DOMParser().parseFromString(text, "text/html");
  if (response.ok) return [...fresh.body.childNodes];
  return said(fresh.querySelector("[role=alert]")?.textContent || text);
}

function said(words) {
  const line = document.createElement("p");
  line.className = "card care";
  line.setAttribute("role", "alert");
  line.textContent = words;
  return [line];
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button"), each = form.dataset.each, data = new FormData(form);
  button.disabled = true;
  if (each) await draw(data, data.getAll(each));
  else {
    progress.textContent = "Looking; the first time it takes a while.";
    answers.replaceChildren(...await ask(data));
    progress.textContent = "";
    answers.scrollIntoView({ block: "nearest" });
  }
  button.disabled = false;
});

async function draw(data, models) {
  if (!models.length) return answers.prepend(...said("Choose a model."));
  const row = document.createElement("section"), head = document.createElement("h2"), grid = document.createElement("div");
  head.textContent = data.get("prompt");
  grid.className = "answers";
  row.append(head, grid);
  answers.prepend(row);
  for (const [i, model] of models.entries()) {
    progress.textContent = `Drawing ${i + 1} of ${models.length}; a model is loaded when it is first asked.`;
    data.set("model", model);
    grid.append(...await ask(data));
  }
  progress.textContent = "";
  const seed = form.elements.seed;
  if (document.querySelector("#next-seed").checked) seed.value = Number(seed.value) + 1;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
  button.textContent = "Copied";
});
