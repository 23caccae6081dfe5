// The charts: what each shows, and how Plotly is asked to draw it.

import { bytes, element, score, trim } from "./format.js";

// Okabe and Ito's palette, told apart with every common colour blindness; darker or lighter by theme.
const LIGHT = ["#0072b2", "#d55e00", "#008f68", "#b35a91", "#8a6d00", "#2a9fd6", "#5b6470"];
const DARK = ["#56b4e9", "#f0893a", "#2fc79a", "#dd93bf", "#e0c530", "#9bd4f5", "#aab3bf"];
const DASHES = ["solid", "dash", "dot", "dashdot"]; // beside colour, so that it is not needed

const AXES = { rounds: "round", bytes: "bytes up and down", seconds: "seconds" };

export const palette = (dark) => (dark ? DARK : LIGHT);

const lines = (runs, names, x) =>
  runs.flatMap((run) =>
    names
      .filter(([name]) => run.series[name])
      .map(([name, label, dash]) => {
        const curve = run.series[name];
        return {
          run: run.id, label, x: curve[x], y: curve.value, mode: curve.value.length < 3 ? "lines+markers" : "lines", type: "scatter",
          name: [run.id, label].filter(Boolean).join(", "), line: { color: run.color, width: 2, dash: dash ?? DASHES[run.dash] },
        };
      }),
  );

const positive = (traces) => traces.length > 0 && traces.every((trace) => trace.y.every((value) => value > 0));

const CHARTS = [
  {
    id: "metric",
    title: ({ metric }) => metric,
    traces: (runs, { x, metric }) => lines(runs, [[metric === "loss" ? "loss" : `metric:${metric}`, ""]], x),
    y: ({ metric }) => (metric === "accuracy" ? { tickformat: ".0%" } : {}),
    say: (value, { metric }) => score(metric, value),
  },
  {
    id: "loss",
    title: () => "loss",
    traces: (runs, { x }) => lines(runs, [["loss", ""]], x),
    y: (_, traces) => (positive(traces) ? { type: "log", exponentformat: "power" } : {}),
    say: (value) => trim(value),
  },
  {
    id: "bytes",
    title: () => "bytes so far, up and down",
    note: "dotted: what float32 models would take",
    traces: (runs, { x }) => lines(runs, [["uplink", "up", "solid"], ["downlink", "down", "dash"], ["dense", "dense", "dot"]], x === "bytes" ? "rounds" : x),
    axis: (x) => (x === "bytes" ? "rounds" : x),
    y: (_, traces) => ({ ticksuffix: "B", exponentformat: "SI", ...(positive(traces) ? { type: "log" } : {}) }),
    say: bytes,
  },
  {
    id: "delta",
    title: () => "error of the round, δₖ",
    note: "dash: its budget c/k; dotted: the aggregated update's norm",
    traces: (runs) => lines(runs, [["delta", "δ", "solid"], ["budget", "c/k", "dash"], ["update_norm", "‖m‖", "dot"]], "rounds"),
    axis: () => "rounds",
    xlog: true,
    y: (_, traces) => (positive(traces) ? { type: "log", exponentformat: "power" } : {}),
    say: trim,
  },
  {
    id: "gradient",
    title: () => "certified gradient norm",
    note: "the truth lies between the solid lines; dotted: f(x) − f* at most",
    optional: true,
    traces: (runs, { x }) => lines(runs, [["gradient_upper", "upper", "solid"], ["gradient_lower", "lower", "solid"], ["gap", "gap", "dot"]], x),
    y: (_, traces) => (positive(traces) ? { type: "log", exponentformat: "power" } : {}),
    say: trim,
  },
];

export const draw = (runs, view) => {
  for (const chart of CHARTS) drawOne(chart, document.getElementById(`chart-${chart.id}`), runs, view);
};

const drawOne = (chart, figure, runs, view) => {
  const traces = chart.traces(runs, view);
  const title = chart.title(view);
  if (!figure.firstChild) {
    figure.append(element("figcaption"), element("div", { class: "plot" }), element("details"));
    figure.querySelector("details").append(element("summary", {}, "as a table"), element("div", { class: "scroll", tabindex: "0" }));
  }
  figure.hidden = Boolean(chart.optional) && traces.length === 0;
  if (figure.hidden) return;
  const [caption, plot, details] = figure.children;
  caption.replaceChildren(title, ...(chart.note ? [element("small", {}, chart.note)] : []));
  const x = chart.axis ? chart.axis(view.x) : view.x;
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, linecolor: line, zeroline: false, color: soft, automargin: true };
  const log = chart.xlog || x === "bytes";
  const crowded = traces.length > 8;
  Plotly.react(
    plot,
    traces,
    {
      margin: { l: 8, r: 8, t: 8, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: ink },
      xaxis: { ...axis, title: { text: AXES[x] }, ...(log ? { type: "log", exponentformat: x === "bytes" ? "SI" : "power" } : { rangemode: "tozero" }) },
      yaxis: { ...axis, ...chart.y(view, traces) },
      showlegend: traces.length > 1 && !crowded,
      legend: { orientation: "h", y: -0.25, x: 0, font: { size: 11 } },
      uirevision: `${x} ${title}`, // a zoom stays while new rounds come
      hovermode: "closest",
    },
    {
      responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
      toImageButtonOptions: { format: "svg", filename: `amgt-fed-${chart.id}` },
    },
  );
  const last = traces.map((trace) => `${trace.name || title}: ${chart.say(trace.y.at(-1), view)}`);
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${title} against ${AXES[x]}; last values: ${last.join("; ") || "none yet"}`);
  details.ontoggle = () => details.open && fill(details, traces, x, (value) => chart.say(value, view));
  if (details.open) details.ontoggle();
};

// Every curve at some twenty points: what a screen reader, or a person with a pencil, needs.
const fill = (details, traces, x, say) => {
  const body = traces.flatMap((trace) => {
    const step = Math.max(1, Math.ceil(trace.x.length / 20));
    const kept = trace.x.map((_, index) => index).filter((index) => index % step === 0 || index === trace.x.length - 1);
    return kept.map((index) =>
      element("tr", {}, element("td", {}, trace.name), element("td", {}, x === "bytes" ? bytes(trace.x[index]) : trim(trace.x[index])), element("td", {}, say(trace.y[index]))),
    );
  });
  const head = element("tr", {}, ...["curve", AXES[x], "value"].map((name) => element("th", { scope: "col" }, name)));
  details.lastChild.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
};
