// The page works without this script. It adds the keys, and holds votes back until both images are shown.
"use strict";

const SETTLE_MILLISECONDS = 250; // A key that was pressed for the pair before must not vote on this one.
const form = document.getElementById("ballot");
const images = [...form.querySelectorAll("img")];
let ready = false;
let sent = false;

function allowed(button) {
  return !sent && !button.disabled && (ready || !["left", "tie", "right"].includes(button.value));
}

function shown(image) {
  if (image.complete) return Promise.resolve();
  return new Promise((resolve) => ["load", "error"].forEach((name) => image.addEventListener(name, resolve)));
}

Promise.all(images.map(shown)).then(() => {
  for (const image of images) {
    image.classList.toggle("small", image.naturalWidth > 0 && image.naturalWidth < 256);
  }
  if (images.some((image) => image.naturalWidth === 0)) return;
  setTimeout(() => {
    ready = true;
    document.body.dataset.ready = "yes";
  }, SETTLE_MILLISECONDS);
});

form.addEventListener("submit", (event) => {
  if (!allowed(event.submitter)) event.preventDefault();
  else sent = true;
});

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const button = form.querySelector(`button[data-key="${CSS.escape(key)}"]`);
  if (!button) return;
  event.preventDefault();
  if (allowed(button)) form.requestSubmit(button);
});

// A page that the browser kept may show an old pair: load the present one.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.replace("./");
});
