/* The name that a screen reader says contains the text that is seen: the theme's labels hide it. */
function showNames() {
  document.querySelector(".search-button-field")?.removeAttribute("aria-label");
  for (const icon of document.querySelectorAll(".theme-switch-button :is(i, svg)")) {
    icon.removeAttribute("title");
    icon.removeAttribute("aria-labelledby");
    icon.setAttribute("aria-hidden", "true");
    icon.querySelector("title")?.remove();
  }
}
showNames(); // the page may have been read before this script came
document.addEventListener("DOMContentLoaded", () => {
  showNames();
  // The theme draws its icons when its own script comes, before or after this one.
  const icons = new MutationObserver(showNames);
  for (const button of document.querySelectorAll(".theme-switch-button"))
    icons.observe(button, { childList: true, subtree: true });
});
