// Addresses of the pages. Links are plain `<a href>`; clicks on those below /ui do not load the page again.

const routes = []

/**
 * Adds a page for addresses like `/ui/imports/:id`. `load` returns the module of the page; its `default` is a class that
 * extends `Page`.
 */
export function route(pattern, load) {
  const names = []
  const expression = pattern.replace(/:(\w+)/g, (_, name) => {
    names.push(name)
    return "([^/]+)"
  })
  routes.push({ expression: new RegExp(`^${expression}/?$`), names, load })
}

/** The page of an address as `{load, params}`, or null. */
export function match(path) {
  for (const { expression, names, load } of routes) {
    const found = expression.exec(path)
    if (found) return { load, params: Object.fromEntries(names.map((name, n) => [name, decodeURIComponent(found[n + 1])])) }
  }
  return null
}

let shown = () => {}

/** Calls `show()` now and whenever the address changes. */
export function start(show) {
  shown = show
  addEventListener("popstate", () => show())
  document.addEventListener("click", (event) => {
    const link = event.composedPath().find((node) => node instanceof HTMLAnchorElement)
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey
    if (!link || !isPlain || event.defaultPrevented || link.target || link.hasAttribute("download")) return
    const url = new URL(link.href)
    if (url.origin !== location.origin || !(url.pathname === "/" || url.pathname.startsWith("/ui/"))) return
    if (url.pathname.startsWith("/ui/assets/")) return
    event.preventDefault()
    navigate(url.pathname + url.search + url.hash)
  })
  show()
}

/** `question`: a function that is called before the current page is left; returns a question if there is unsaved work. */
export const leaving = { question: null }

export function navigate(path) {
  const question = leaving.question?.()
  if (question && !confirm(question)) return
  history.pushState(null, "", path)
  shown()
  scrollTo(0, 0)
}

/** Changes the query of the address in place, without an entry in the history. Null and "" remove a parameter. */
export function setQuery(changes) {
  const query = new URLSearchParams(location.search)
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") query.delete(name)
    else query.set(name, value)
  }
  const text = query.toString()
  history.replaceState(null, "", location.pathname + (text ? `?${text}` : ""))
}
