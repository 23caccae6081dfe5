// Numbers as people read them, and elements without the ceremony.

export const bytes = (count) => {
  if (count === null || count === undefined) return "";
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (Math.abs(count) < 1000 || unit === "TB") return `${unit === "B" ? Math.round(count) : trim(count)} ${unit}`;
    count /= 1000;
  }
};

export const trim = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(3))));

export const score = (name, value) => {
  if (value === null || value === undefined) return "";
  return name === "accuracy" ? `${(100 * value).toFixed(1)} %` : `${trim(value)} ${name}`;
};

export const ago = (seconds) => {
  if (!seconds) return "never";
  const passed = Math.max(Date.now() / 1000 - seconds, 0);
  if (passed < 60) return `${Math.round(passed)} s ago`;
  if (passed < 3600) return `${Math.round(passed / 60)} min ago`;
  if (passed < 172800) return `${Math.round(passed / 3600)} h ago`;
  return new Date(1000 * seconds).toISOString().slice(0, 10);
};

// Text goes in as text, never as HTML: a run's name or a client's failure may hold anything.
export const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};
