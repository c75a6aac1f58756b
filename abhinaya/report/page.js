"use strict";
const root = document.documentElement;
const theme = document.getElementById("theme");

function isDark() {
  return root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
}

function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
}

theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();

for (const choice of document.querySelectorAll("[data-choice]")) {
  const selects = [...choice.querySelectorAll("select")];
  const panels = [...choice.querySelectorAll("[data-panel]")];
  const show = () => {
    const shown = selects.reduce((sum, one) => sum * one.length + one.selectedIndex, 0);
    panels.forEach((panel, idx) => { panel.hidden = idx !== shown; });
  };
  selects.forEach((one) => one.addEventListener("change", show));
  show(); // a browser may remember what was chosen before
}

function save(name, url) {
  const link = document.createElement("a");
  link.download = name;
  link.href = url;
  link.click();
}

for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => {
    const figure = button.closest("figure");
    const svg = figure.querySelector("svg").cloneNode(true);
    svg.style.cssText = "color: #000000; background: #ffffff";
    const url = "data:image/svg+xml;charset=utf-8,"
      + encodeURIComponent(new XMLSerializer().serializeToString(svg));
    if (button.dataset.save === "svg") {
      save(figure.id + ".svg", url);
      return;
    }
    const image = new Image();
    image.onload = () => {
      const scale = 3;
      const canvas = document.createElement("canvas");
      canvas.width = image.width * scale;
      canvas.height = image.height * scale;
      const paper = canvas.getContext("2d");
      paper.fillStyle = "#ffffff";
      paper.fillRect(0, 0, canvas.width, canvas.height);
      paper.drawImage(image, 0, 0, canvas.width, canvas.height);
      save(figure.id + ".png", canvas.toDataURL("image/png"));
    };
    image.src = url;
  });
}
