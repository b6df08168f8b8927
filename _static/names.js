/* The name that a screen reader says contains the text that is seen: the theme's labels hide it. */
function showNames() {
  document.querySelector(".search-button-field")?.removeAttribute("aria-label");
  document.querySelectorAll(".theme-switch-button i").forEach((icon) => icon.removeAttribute("title"));
}
showNames(); // the page may have been read before this script came
document.addEventListener("DOMContentLoaded", showNames);
window.addEventListener("load", showNames);
