// The page's state: which runs are shown, against what; and the loop that asks for what is new.

import { draw, palette } from "./charts.js";
import { element } from "./format.js";
import { clientQuery, fillClients, fillRuns } from "./tables.js";

const POLL_MS = 1000;
const SHOWN_AT_FIRST = 4;

const byId = (id) => document.getElementById(id);
const view = { x: "rounds", metric: "" };
const shown = new Set();
const seriesOf = new Map(); // run -> its curves, as of one version
let runs = [];
let drawn = "";

const dark = () => document.documentElement.dataset.theme === "dark";

const setTheme = (wish) => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset.theme = wish === "auto" ? system : wish;
  drawn = "";
};

const fetchJson = async (path) => {
  const response = await fetch(path);
  if (!response.ok) throw new Error((await response.text()) || `${response.status}`);
  return response.json();
};

const refreshRuns = async () => {
  const known = new Set(runs.map((run) => run.id));
  runs = await fetchJson("/api/runs");
  const colors = palette(dark());
  runs.forEach((run, index) => {
    run.color = colors[index % colors.length];
    run.dash = Math.floor(index / colors.length) % 4;
    if (!known.has(run.id) && shown.size < SHOWN_AT_FIRST) shown.add(run.id);
  });
  for (const id of [...shown]) if (!runs.some((run) => run.id === id)) shown.delete(id);
};

const refreshSeries = async () => {
  for (const run of runs.filter((run) => shown.has(run.id))) {
    if (seriesOf.get(run.id)?.version !== run.version) {
      seriesOf.set(run.id, await fetchJson(`/api/runs/${encodeURIComponent(run.id)}/series`));
    }
  }
};

const refreshClients = async () => {
  const run = byId("clients-run").value;
  if (!run) return;
  const query = new URLSearchParams(clientQuery);
  fillClients(await fetchJson(`/api/runs/${encodeURIComponent(run)}/clients?${query}`), () => step(refreshClients));
};

const setOptions = (select, names, wish) => {
  const old = [...select.options].map((option) => option.value);
  if (old.join("\n") !== names.join("\n")) {
    const kept = names.includes(select.value) ? select.value : wish;
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(kept)) select.value = kept;
  }
  return select.value;
};

const render = () => {
  const chosen = runs.filter((run) => shown.has(run.id) && seriesOf.has(run.id));
  const metrics = [...new Set(chosen.flatMap((run) => seriesOf.get(run.id).metrics))].sort();
  view.metric = setOptions(byId("metric"), metrics.length ? metrics : ["loss"], "accuracy");
  setOptions(byId("clients-run"), runs.map((run) => run.id), runs[0]?.id);
  const state = JSON.stringify([view, document.documentElement.dataset.theme, chosen.map((run) => [run.id, seriesOf.get(run.id).version])]);
  fillRuns(runs, shown, toggle);
  if (state === drawn) return;
  drawn = state;
  draw(chosen.map((run) => ({ ...seriesOf.get(run.id), color: run.color, dash: run.dash })), view);
};

const toggle = (id, on) => {
  if (on) shown.add(id);
  else shown.delete(id);
  step(refreshSeries);
};

// Told to screen readers only when it changes in kind, not with every round.
const tell = (text) => {
  if (byId("live").textContent !== text) byId("live").textContent = text;
};

const step = async (work) => {
  try {
    await work();
    render();
    const going = runs.filter((run) => !run.finished).length;
    tell(`${runs.length} run${runs.length === 1 ? "" : "s"}, ${going ? `${going} going on` : "all over"}`);
  } catch (error) {
    tell(`no answer from the dashboard (${error.message}); trying again`);
  }
};

const loop = async () => {
  if (!document.hidden) {
    await step(async () => {
      await refreshRuns();
      await refreshSeries();
      render();
      await refreshClients();
    });
  }
  setTimeout(loop, POLL_MS);
};

byId("theme").value = localStorage.getItem("theme") ?? "auto";
byId("theme").onchange = (event) => {
  localStorage.setItem("theme", event.target.value);
  setTheme(event.target.value);
  step(refreshRuns);
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(byId("theme").value));
setTheme(byId("theme").value);
byId("axis").onchange = (event) => {
  view.x = event.target.value;
  render();
};
byId("metric").onchange = render;
byId("clients-run").onchange = () => {
  clientQuery.page = 0;
  step(refreshClients);
};
byId("clients-find").oninput = (event) => {
  clientQuery.find = event.target.value;
  clientQuery.page = 0;
  step(refreshClients);
};
byId("clients-back").onclick = () => {
  clientQuery.page -= 1;
  step(refreshClients);
};
byId("clients-next").onclick = () => {
  clientQuery.page += 1;
  step(refreshClients);
};
addEventListener("load", loop); // Plotly's script is there by then
