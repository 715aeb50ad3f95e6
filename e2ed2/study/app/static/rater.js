// A rater's page. A choice is first kept in the browser, then sent until the server has it; each has an id, so that one
// that is sent twice is there once. The next pairs are fetched before their turn.
const TRY_FOR = 4000, RETRY = 3000, NEWS = 5000; // milliseconds
const AHEAD = 2; // screens fetched before their turn
const link = document.body.dataset.link;
const queueKey = `e2ed2 ${link}`;
const parts = new Map(); // number -> its page, once it is here
const byId = (id) => document.getElementById(id);
const parse = (text, id) => new DOMParser().parseFromString(text, "text/html").getElementById(id);
const screen = () => byId("screen");
const number = () => Number(screen().dataset.number);
let isBusy = false, reached = Number(screen().dataset.reached);

// --- the clock: how long the pair was seen

let seen = 0, since = null;
const stopClock = () => { if (since !== null) seen += performance.now() - since; since = null; };
const startClock = () => { if (since === null && !document.hidden && !byId("judging")?.hidden) since = performance.now(); };
const resetClock = () => { seen = 0; since = null; startClock(); };
document.addEventListener("visibilitychange", () => (document.hidden ? stopClock() : startClock()));

// --- what is not sent yet

let memory = [], isFull = false; // where a browser keeps nothing, or no more
const stored = () => JSON.parse(localStorage.getItem(queueKey)) ?? [];
function store(votes) {
  if (votes.length) localStorage.setItem(queueKey, JSON.stringify(votes));
  else localStorage.removeItem(queueKey);
}
function queued() {
  if (isFull) return memory;
  try { return stored(); } catch { return memory; }
}
function keep(vote) {
  memory = [...queued(), vote];
  try { if (!isFull) store(memory); } catch { isFull = true; } // full, or not allowed: from now on it is in memory
}
function forget(id) {
  const others = (votes) => votes.filter((vote) => vote.id !== id);
  memory = others(queued());
  try { store(others(stored())); } catch { isFull = true; }
}

async function send(vote) {
  const body = { screen: vote.screen, choice: vote.choice, seconds: vote.seconds, waited: Math.max(0, (Date.now() - vote.at) / 1000) };
  const response = await fetch(`${link}/votes/${vote.id}`, {
    method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: AbortSignal.timeout(TRY_FOR),
  });
  const answer = await response.json().catch(() => null); // a page in between answers with no JSON of ours
  if (response.ok && typeof answer?.reached === "number") return "kept";
  if (response.status === 404) location.reload(); // the link is no longer valid, and its page says so
  return [409, 422].includes(response.status) && typeof answer?.error === "string" ? "refused" : "later";
}

let sending = null;
function sendAll() {
  sending ??= sendQueue().finally(() => { sending = null; });
  return sending;
}

async function sendQueue() {
  for (let votes = queued(); votes.length; votes = queued()) {
    let end;
    try { end = await send(votes[0]); } catch { end = "later"; }
    if (end === "later") {
      say("offline", queued().length);
      setTimeout(sendAll, RETRY);
      news();
      return false;
    }
    forget(votes[0].id);
    if (end === "refused") { say("refused"); return false; }
  }
  say(null);
  mark();
  return true;
}

// --- notices

function say(kind, count) {
  const notice = byId("notice");
  if (kind === "offline" && byId("news").dataset.paused) kind = "paused";
  notice.hidden = kind === null;
  if (kind !== null) notice.textContent = notice.dataset[kind].replace("{count}", count);
}

let hasHand = Number(byId("news").dataset.waiting) > 0;
async function news() {
  try {
    const response = await fetch(`${link}/news`, { headers: { accept: "text/html" } });
    if (!response.ok) return;
    const fresh = parse(await response.text(), "news");
    if (fresh.textContent.trim() !== byId("news").textContent.trim() || fresh.dataset.paused !== byId("news").dataset.paused) byId("news").replaceWith(fresh);
    hasHand = Number(fresh.dataset.waiting) > 0;
    byId("hand-button").classList.toggle("is-up", hasHand);
    if (queued().length === 0) say(fresh.dataset.paused ? "paused" : null);
  } catch { /* without a connection there is no news */ }
}

// --- the pairs

async function part(n) {
  if (parts.has(n)) return parts.get(n);
  const response = await fetch(`${link}/${n}/part`, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(TRY_FOR) });
  if (!response.ok) throw new Error(response.status);
  const fresh = parse(await response.text(), "screen");
  const images = [...fresh.querySelectorAll("img")].map((image) => Object.assign(new Image(), { src: image.getAttribute("src") }).decode());
  await Promise.all(images);
  parts.set(n, fresh);
  return fresh;
}

function fetchAhead() {
  const total = Number(screen().dataset.total);
  for (let n = number() + 1; n <= Math.min(number() + AHEAD, total); n++) part(n).catch(() => {});
}

async function show(n, isNew = true) {
  let next;
  for (;;) {
    try { next = (await part(n)).cloneNode(true); break; } catch { say("waiting"); }
    await new Promise((done) => setTimeout(done, RETRY));
  }
  if (queued().length === 0) say(null);
  screen().replaceWith(document.importNode(next, true));
  document.title = screen().dataset.title;
  if (isNew) history.pushState(null, "", `${link}/${n}`);
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  screen().focus({ preventScroll: true });
  scrollTo(0, 0);
  resetClock();
  mark();
  fetchAhead();
}

function mark() {
  const unsent = queued().length > 0;
  document.querySelector("[data-do=back]").disabled = number() === 0;
  document.querySelector("[data-do=forward]").disabled = number() >= Math.min(reached, Number(screen().dataset.total));
  if (byId("unsent")) {
    byId("unsent").hidden = !unsent;
    byId("finish").querySelector("button").disabled = unsent;
  }
}

async function choose(choice) {
  const button = document.querySelector(`#screen [data-choice=${choice}]`);
  if (isBusy || !button || button.disabled || byId("judging").hidden) return;
  isBusy = true;
  stopClock();
  const here = number();
  for (const other of document.querySelectorAll("#screen [data-choice]")) other.setAttribute("aria-pressed", other === button);
  keep({ id: crypto.randomUUID?.() ?? randomId(), screen: here, choice, seconds: seen / 1000, at: Date.now() });
  const isKept = await sendAll();
  if (isKept || queued().length) { // else it was refused
    const shown = screen().cloneNode(true);
    shown.querySelector("#interlude")?.remove();
    parts.set(here, shown); // with its choice, for the way back
    reached = Math.max(reached, here + 1);
    await show(here + 1);
  }
  isBusy = false;
}

// An address without TLS has no randomUUID.
const randomId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const go = (n) => { if (!isBusy && n >= 0 && n <= Math.min(reached, Number(screen().dataset.total))) show(n); };

// --- dialogs

function zoom(side) {
  const image = document.querySelector(`#judging:not([hidden]) .${side} img`);
  if (!image) return;
  byId("zoom").querySelector("img").src = image.src;
  for (const button of byId("zoom").querySelectorAll("[data-side]")) button.setAttribute("aria-pressed", button.dataset.side === side);
  if (!byId("zoom").open) byId("zoom").showModal();
}

const zoomed = () => byId("zoom").querySelector("[aria-pressed=true]").dataset.side;

async function ask(event) {
  event.preventDefault();
  const field = byId("question");
  field.dataset.id ||= randomId(); // the same while the same question is sent again
  const body = JSON.stringify({ id: field.dataset.id, screen: number(), text: field.value });
  const request = { method: "POST", headers: { "content-type": "application/json" }, body, signal: AbortSignal.timeout(TRY_FOR) };
  const isSent = await fetch(`${link}/hands`, request).then((response) => response.ok, () => false);
  byId("not-sent").hidden = isSent;
  if (!isSent) return;
  field.value = field.dataset.id = "";
  byId("hand").close();
  await news();
  say("hand");
}

async function read() {
  await fetch(`${link}/news/read`, { method: "POST" });
  await news();
}

const ACTIONS = {
  start: () => { byId("interlude").remove(); byId("judging").hidden = false; screen().focus(); resetClock(); },
  back: () => go(number() - 1),
  forward: () => go(number() + 1),
  guide: () => byId("guide").showModal(),
  hand: () => { byId("hand").showModal(); byId("question").focus(); },
  zoom: (button) => zoom(button?.dataset.side ?? "left"),
  close: (button) => button.closest("dialog").close(),
  read,
};
const KEYS = {
  1: () => choose("left"), 2: () => choose("right"), x: () => choose("none"), 0: () => choose("none"),
  arrowleft: ACTIONS.back, arrowright: ACTIONS.forward, z: ACTIONS.zoom, h: ACTIONS.hand, g: ACTIONS.guide,
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-choice], [data-do]");
  if (button?.dataset.choice) choose(button.dataset.choice);
  else if (button) ACTIONS[button.dataset.do](button);
  else if (event.target.id === "zoom" || event.target.matches("#zoom img")) byId("zoom").close();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.toLowerCase();
  if (byId("zoom").open && ["arrowleft", "arrowright", "1", "2", "z"].includes(key)) {
    return key === "z" ? byId("zoom").close() : zoom(zoomed() === "left" ? "right" : "left");
  }
  if (document.querySelector("dialog[open]") || event.target.matches("input, textarea")) return;
  if (KEYS[key]) { event.preventDefault(); KEYS[key](); }
});
addEventListener("popstate", () => { if (!isBusy) show(Number(location.pathname.split("/").pop()), false); });
addEventListener("online", () => sendAll());
byId("ask").addEventListener("submit", ask);
setInterval(() => { if (hasHand || byId("news").dataset.paused) news(); }, NEWS);

// --- begin: what an earlier visit could not send comes first

history.replaceState(null, "", `${link}/${number()}`);
mark();
startClock();
if (queued().length) sendAll().then((isKept) => { if (isKept) location.reload(); });
else fetchAhead();
news();
