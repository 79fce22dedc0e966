"use strict";
// What every page shares.
const root = document.documentElement;
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const percent = (p) => `${(100 * p).toFixed(p > 0.995 || p < 0.1 ? 1 : 0)} %`;

// Theme: the browser's preference until the button is pressed. Without a script the page is light.
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
