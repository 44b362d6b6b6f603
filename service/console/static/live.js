// Brings an open job or request up to date: fetches the page again and exchanges what lies in #live. Without it the page still reads.
const seconds = 2;

async function refresh() {
  const shown = document.getElementById("live");
  if (!shown || !("open" in shown.dataset)) return;
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = answer.ok && page.getElementById("live");
      if (found && found.innerHTML !== shown.innerHTML) exchange(shown, found);
    } catch { /* away for a moment, or signed out: the page stays as it is */ }
  }
  setTimeout(refresh, 1000 * seconds);
}

// Whoever is within with the keyboard stays where they were.
function exchange(shown, found) {
  const stops = "a, [tabindex]";
  const place = [...shown.querySelectorAll(stops)].indexOf(document.activeElement);
  shown.replaceWith(found);
  if (place >= 0) found.querySelectorAll(stops)[place]?.focus({ preventScroll: true });
}

setTimeout(refresh, 1000 * seconds);
