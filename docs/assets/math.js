// Formulas, typeset by the KaTeX beside this file: nothing is fetched from elsewhere.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".arithmatex")) {
    const source = place.textContent.trim().replace(/^\\[([]|\\[)\]]$/g, "");
    katex.render(source, place, { displayMode: place.tagName === "DIV", throwOnError: false, macros: window.MACROS });
  }
});
