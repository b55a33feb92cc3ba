// Live progress: regions with data-events are replaced by what the server sends when something has changed.
for (const region of document.querySelectorAll("[data-events]")) {
  let stream = null;

  const show = (html) => {
    const open = [...region.querySelectorAll("details[open]")].map((details) => details.id);
    const focused = region.contains(document.activeElement) ? document.activeElement.id : "";
    const said = region.querySelector("[data-status]")?.textContent;
    region.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus();
    const says = region.querySelector("[data-status]")?.textContent;
    if (says && says !== said) document.getElementById("announce").textContent = says;
  };

  // A hidden page lets its connection go: browsers allow only six to one server.
  const follow = () => {
    if (document.hidden) {
      stream?.close();
      stream = null;
    } else if (!stream) {
      stream = new EventSource(region.dataset.events);
      stream.addEventListener("update", (event) => show(event.data));
    }
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}
