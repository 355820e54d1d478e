// Everything works without this file: it keeps a page current while it is looked at, and adds a few keys.

const $ = (selector, inside = document) => inside.querySelector(selector);
const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// ---- keeping the page current ----

const main = $("#main");
const light = $("#live");
let stream = main.dataset.stream; // of one job, until it has ended
const every = Number(main.dataset.every) * 1000; // for pages without a stream
const LEAST_MS = 1000; // between two loads
const PROGRESS_MS = 5000; // if there is mere progress
const GATHER_MS = 100; // events that come together cause one load
const GIVE_UP_MS = 60000;

let source = null, last = main.dataset.after, loaded = Date.now(), due = 0, timer = null, loading = false, brokenSince = 0;

function say(text, live) {
  light.hidden = false;
  light.classList.toggle("off", !live);
  if ($("span", light).textContent !== text) $("span", light).textContent = text;
}

function follow() {
  if (!stream || source || document.hidden) return;
  source = new EventSource(`${stream}?after=${last}`);
  source.onopen = () => { brokenSince = 0; say("live", true); };
  source.onerror = broken;
  for (const kind of ["progress", "evaluation", "prototypes", "checkpoint", "file", "report", "warning", "state", "request", "change"]) {
    source.addEventListener(kind, event => { last = event.lastEventId; plan(kind === "progress" ? PROGRESS_MS : LEAST_MS); });
  }
}

function broken() {
  brokenSince ||= Date.now();
  const since = new Date(brokenSince).toLocaleTimeString();
  if (source.readyState !== EventSource.CLOSED) {
    say(`not live since ${since}, trying again`, false);
    return;
  }
  source = null; // the job has ended, or the session has: the page says which
  plan(LEAST_MS);
}

function unfollow() {
  source?.close(); // a browser has few connections to one host, and a page that nobody sees needs none
  source = null;
}

// Load at the earliest so long after the last time.
function plan(ms) {
  const at = Math.max(loaded + ms, Date.now() + GATHER_MS);
  if (timer && due <= at) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(load, at - Date.now());
}

async function load() {
  timer = null;
  if (document.hidden || loading) return;
  loading = true;
  loaded = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) { location.reload(); return; } // to the login
    if (!answer.ok) throw new Error(answer.status);
    brokenSince = 0;
    swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
    if (stream || every) say("live", true);
    follow(); // where the stream was broken
  } catch {
    brokenSince ||= Date.now();
    const since = new Date(brokenSince).toLocaleTimeString();
    say(Date.now() - brokenSince > GIVE_UP_MS ? `not live since ${since}; reload the page` : `not live since ${since}, trying again`, false);
    if (stream) plan(PROGRESS_MS);
  } finally {
    loading = false;
    if (every) plan(every);
  }
}

// Parts that hold the focus, a selection or something opened stay as they are.
function swap(fresh) {
  document.title = fresh.title;
  const parts = [...main.querySelectorAll("[data-part]")];
  const names = list => list.map(part => part.dataset.part).join();
  const others = [...fresh.querySelectorAll("[data-part]")];
  const ended = stream && !$("#main", fresh).dataset.stream;
  if (names(parts) !== names(others)) {
    if (parts.some(isBusy)) return plan(PROGRESS_MS);
    main.replaceChildren(...$("#main", fresh).childNodes);
  } else {
    parts.forEach((part, place) => {
      if (part.innerHTML !== others[place].innerHTML && !isBusy(part)) part.replaceWith(others[place]);
    });
  }
  if (ended) { unfollow(); stream = null; light.hidden = true; }
}

function isBusy(part) {
  const chosen = getSelection();
  const selects = chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode);
  return selects || part.contains(document.activeElement) || $("details[open], :checked:not(option)", part) !== null;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return unfollow();
  follow();
  if (stream || every) plan(0);
});
addEventListener("pagehide", unfollow);
addEventListener("pageshow", event => { if (event.persisted) follow(); });
follow();
if (every) { say("live", true); plan(every); }

// ---- keys ----

addEventListener("keydown", event => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const links = $$(".c-n > a");
  const step = { j: 1, k: -1 }[event.key];
  if (event.key === "/" && $("#q")) { $("#q").focus(); event.preventDefault(); }
  if (step && links.length) links[Math.max(0, Math.min(links.length - 1, links.indexOf(document.activeElement) + step))].focus();
});
