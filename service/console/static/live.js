// Refreshes an open job or request: fetches the page again and replaces the content of #live. Without it the page still works.
const seconds = 2;

async function refresh() {
  const shown = document.getElementById("live");
  if (!shown || !("open" in shown.dataset)) return;
  if (!document.hidden) {
    try {
      const response = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const found = response.ok && page.getElementById("live");
      if (found && found.innerHTML !== shown.innerHTML) replace(shown, found);
    } catch { /* the service is away, or the session has ended: the page stays as it is */ }
  }
  setTimeout(refresh, 1000 * seconds);
}

// Keeps the keyboard focus where it was.
function replace(shown, found) {
  const stops = "a, [tabindex]";
  const place = [...shown.querySelectorAll(stops)].indexOf(document.activeElement);
  shown.replaceWith(found);
  if (place >= 0) found.querySelectorAll(stops)[place]?.focus({ preventScroll: true });
}

setTimeout(refresh, 1000 * seconds);
