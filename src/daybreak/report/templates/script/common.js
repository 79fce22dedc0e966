"use strict";
// What every page shares.
const root = document.documentElement;
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const percent = (p) => `${(100 * p).toFixed(p > 0.995 || p < 0.1 ? 1 : 0)}\u00a0%`;

// A name without its middle where it is long: whole on hover, and for screen readers.
const short = (name, longest = 24) => {
  const tail = Math.floor((longest * 2) / 5), all = [...name];
  return all.length <= longest ? name : `${all.slice(0, longest - tail - 1).join("")}…${all.slice(-tail).join("")}`;
};
const named = (name, longest, style = "") => {
  const brief = short(name, longest);
  if (brief === name) return make("span", { class: `name ${style}` }, name);
  return make("span", { class: `name ${style}` },
    make("span", { "aria-hidden": "true", title: name }, brief), make("span", { class: "unseen" }, name));
};

// Theme: the browser's preference until the button is pressed. So it is without a script.
const dark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
const setTheme = (name) => {
  root.dataset.theme = name;
  themeButton.textContent = name === "dark" ? "Light" : "Dark";
};
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
themeButton.hidden = false;
themeButton.addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
