/* Each result of a search says in which section its excerpt stands, and leads there. */
document.addEventListener("DOMContentLoaded", () => {
  const results = document.getElementById("search-results");
  if (!results) return;
  const plain = (text) => text.replace(/\s+/g, " ");
  const pages = new Map();

  async function load(address) {
    if (!pages.has(address)) pages.set(address, fetch(address).then((answer) => answer.text()));
    return new DOMParser().parseFromString(await pages.get(address), "text/html");
  }

  async function nameSection(excerpt) {
    const link = excerpt.parentElement.querySelector("a");
    if (link.hash) return; // the result is a section already
    const middle = plain(excerpt.textContent).slice(20, 60);
    const sections = [...(await load(link.href)).querySelectorAll("article section[id]")];
    const holding = sections.filter((section) => plain(section.textContent).includes(middle));
    const section = holding.at(-1); // the innermost one comes last
    const heading = section?.querySelector(":is(h2, h3, h4)");
    if (!heading || heading.parentElement !== section) return;
    heading.querySelectorAll(".headerlink").forEach((mark) => mark.remove());
    link.hash = section.id;
    link.append(` › ${heading.textContent.trim()}`);
  }

  new MutationObserver((changes) => {
    for (const change of changes)
      for (const node of change.addedNodes)
        if (node.matches?.(".context")) nameSection(node);
        else node.querySelectorAll?.(".context").forEach(nameSection);
  }).observe(results, { childList: true, subtree: true });
});
