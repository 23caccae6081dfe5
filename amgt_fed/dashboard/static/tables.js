// The table of runs, and the paged table of one run's clients.

import { ago, bytes, element, score, trim } from "./format.js";

export const certificate = (run) => {
  if (run.gap !== null) return `f − f* ≤ ${trim(run.gap)}`;
  if (run.gradient_upper !== null) return `‖∇f‖ in [${trim(run.gradient_lower)}, ${trim(run.gradient_upper)}]`;
  return "";
};

export const fillRuns = (runs, shown, onToggle) => {
  const rows = runs.map((run) => {
    const state = run.problem ? "unreadable" : run.finished ? run.stopped || run.status : run.status;
    const mood = run.problem || ["diverging", "budget violated"].includes(run.status) ? "bad" : run.status === "converged" ? "good" : "";
    const box = element("input", { type: "checkbox", "aria-label": `show ${run.id}`, onchange: (event) => onToggle(run.id, event.target.checked) });
    box.checked = shown.has(run.id);
    box.dataset.run = run.id;
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = run.color;
    const cells = [
      run.task ?? "", `${run.rounds}${run.planned ? ` / ${run.planned}` : ""}`,
      element("span", { class: mood, title: run.problem || state }, run.problem ? `unreadable: ${run.problem}` : run.finished ? `${state}, over` : state),
      score(run.metric, run.value), bytes(run.uplink), bytes(run.downlink), bytes(run.dense),
      run.ratio === null ? "" : `${Math.round(run.ratio).toLocaleString("en")} x`, certificate(run),
      run.failures ? element("span", { class: "bad" }, String(run.failures)) : "0",
    ];
    return element("tr", {}, element("td", {}, box), element("th", { scope: "row" }, swatch, run.id), ...cells.map((cell) => element("td", {}, cell)));
  });
  replaceKeepingFocus(document.querySelector("#runs tbody"), rows);
  document.getElementById("none").hidden = runs.length > 0;
};

// Rows are made anew at each change; whoever stands in one with the keyboard stays there.
const replaceKeepingFocus = (body, rows) => {
  const run = body.contains(document.activeElement) ? document.activeElement.dataset.run : null;
  body.replaceChildren(...rows);
  if (run !== null) [...body.querySelectorAll("input")].find((box) => box.dataset.run === run)?.focus();
};

const COLUMNS = [
  ["client", "client"], ["rounds", "rounds"], ["last_round", "last round"], ["last_seen", "last seen"], ["uplink_bytes", "up"],
  ["downlink_bytes", "down"], ["relative_norm", "norm / mean's"], ["outliers", "outlier"], ["failures", "failures"],
];

export const clientQuery = { page: 0, sort: "client", order: "asc", find: "" };

export const fillClients = (found, again) => {
  const head = document.querySelector("#clients-table thead tr");
  const active = head.contains(document.activeElement) ? document.activeElement.dataset.sort : null;
  head.replaceChildren(
    ...COLUMNS.map(([name, label]) => {
      const sorted = clientQuery.sort === name;
      const turn = () => {
        clientQuery.order = sorted && clientQuery.order === "asc" ? "desc" : "asc";
        clientQuery.sort = name;
        clientQuery.page = 0;
        again();
      };
      const arrow = sorted ? (clientQuery.order === "asc" ? " ▲" : " ▼") : "";
      const button = element("button", { type: "button", "data-sort": name, onclick: turn }, label + arrow);
      return element("th", { scope: "col", "aria-sort": sorted ? (clientQuery.order === "asc" ? "ascending" : "descending") : "none" }, button);
    }),
    element("th", { scope: "col" }, "last failure"),
  );
  if (active) head.querySelector(`[data-sort="${active}"]`)?.focus();
  const rows = found.clients.map((client) =>
    element(
      "tr", {},
      ...[
        client.client, client.rounds, client.last_round || "", ago(client.last_seen), bytes(client.uplink_bytes), bytes(client.downlink_bytes),
        client.rounds ? trim(client.relative_norm) : "", client.outliers, client.failures, client.last_failure,
      ].map((cell) => element("td", {}, String(cell))),
    ),
  );
  document.querySelector("#clients-table tbody").replaceChildren(...rows);
  const first = found.page * found.page_size;
  const place = found.total ? `${first + 1} to ${first + found.clients.length} of ${found.total.toLocaleString("en")}` : "none yet";
  const told = document.getElementById("clients-place");
  if (told.textContent !== place) told.textContent = place;
  document.getElementById("clients-back").disabled = found.page === 0;
  document.getElementById("clients-next").disabled = first + found.clients.length >= found.total;
};
