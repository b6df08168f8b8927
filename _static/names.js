/* The name that a screen reader says contains the text that is seen: the theme's labels hide it. */
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".search-button-field")?.removeAttribute("aria-label");
  document.querySelectorAll(".theme-switch-button i").forEach((icon) => icon.removeAttribute("title"));
});
