// The shell: header, navigation, the key, settings, keyboard shortcuts, and the page of the address.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js"
import { credentials, get, onUnauthorized, Problem } from "./client.js"
import { acceptDrops } from "./files.js"
import * as format from "./format.js"
import { updates } from "./page.js"
import { failure, icon } from "./parts.js"
import * as router from "./router.js"

router.route("/", () => import("./imports.js"))
router.route("/ui", () => import("./imports.js"))
router.route("/ui/imports", () => import("./imports.js"))
router.route("/ui/imports/:id", () => import("./import.js"))
router.route("/ui/imports/:id/mend", () => import("./mend.js"))
router.route("/ui/new", () => import("./new.js"))
router.route("/ui/exports", () => import("./exports.js"))
router.route("/ui/exports/new", () => import("./new_export.js"))
router.route("/ui/exports/:id", () => import("./export.js"))
router.route("/ui/resources", () => import("./resources.js"))
router.route("/ui/resources/:name", () => import("./resources.js"))
router.route("/ui/service", () => import("./service.js"))

const NAVIGATION = [
  ["/ui/imports", "Imports"],
  ["/ui/exports", "Exports"],
  ["/ui/resources", "Resources"],
  ["/ui/service", "Service"],
]

// settings of the browser, not of the service; names and switches only, never data or keys
const preferences = {
  theme: localStorage.getItem("bulk.theme") ?? "auto",
  utc: localStorage.getItem("bulk.utc") === "true",
  shortcuts: localStorage.getItem("bulk.shortcuts") !== "false",
  hidden: localStorage.getItem("bulk.hidden") === "true",
}

let page = null
let missing = false
let keyProblem = null
let keyNeeded = false
let keyBusy = false
/** The name and role of this tab's key, as reported by the service: `{name, role}`, or null. */
let identity = null
let health = null
let epoch = 0

function applyPreferences() {
  document.documentElement.dataset.theme = preferences.theme
  document.documentElement.dataset.values = preferences.hidden ? "hidden" : "shown"
  format.times.utc = preferences.utc
}

function prefer(name, value) {
  preferences[name] = value
  localStorage.setItem(`bulk.${name}`, String(value))
  applyPreferences()
  draw()
}

function announce(text) {
  const region = document.querySelector("#announcements")
  if (region) region.textContent = text
}

async function show() {
  const found = router.match(location.pathname)
  const mine = ++epoch
  page?.close()
  router.leaving.question = null
  page = null
  missing = !found
  if (!found) return draw({ focus: true })
  const module = await found.load()
  if (mine !== epoch) return undefined
  page = new module.default({
    params: found.params,
    query: new URLSearchParams(location.search),
    announce,
    draw: () => mine === epoch && draw(),
  })
  draw({ focus: true })
  if (!keyNeeded) page.open()
  return undefined
}

let isFirst = true
/** The element that had the focus when a page was entered. While it is set, the focus is still to be moved to the heading. */
let focusedBefore = null

function draw({ focus = false } = {}) {
  const title = page?.title || (missing ? "No such page" : "")
  document.title = title ? `${title} · Bulk` : "Bulk"
  if (focus && !isFirst) focusedBefore = document.activeElement ?? document.body
  if (focus) isFirst = false
  render(shell(), document.querySelector("#app"))
  if (focusedBefore) focusHeading()
}

/** Moves the focus to the heading as soon as it exists, unless the user has moved it meanwhile. */
function focusHeading() {
  const heading = document.querySelector("main h1")
  if (!heading) return
  if (document.activeElement === focusedBefore || document.activeElement === document.body) {
    heading.setAttribute("tabindex", "-1")
    heading.focus({ preventScroll: true })
  }
  focusedBefore = null
}

function shell() {
  const here = location.pathname === "/" || location.pathname === "/ui" ? "/ui/imports" : location.pathname
  return html`
    <a class="skip" href="#main" @click=${skip}>Skip to the content</a>
    <header class="top">
      <div class="wide">
        <a class="brand" href="/ui/imports">${logo()}<span>Bulk</span></a>
        <nav aria-label="Main">
          ${NAVIGATION.map(
            ([address, label]) =>
              html`<a href=${address} aria-current=${here === address || here.startsWith(`${address}/`) ? "page" : nothing}>${label}</a>`,
          )}
          <a href="/docs" target="_blank">API</a>
        </nav>
        <div class="tools">
          ${healthPill()}
          <button type="button" class="quiet icon-only" aria-label="Settings and shortcuts" title="Settings and shortcuts" @click=${help}>
            ${icon("help")}
          </button>
          ${credentials.key
            ? html`<button type="button" class="quiet" title=${identity?.role === "read" ? "This key may only read" : "This key may read and change"} @click=${forget}>
                ${icon("key")}<span class="hide-narrow">Forget key${identity?.name ? ` of ${identity.name}` : ""}</span>
              </button>
              ${identity?.role === "read" ? html`<span class="chip info hide-narrow">read only</span>` : nothing}`
            : nothing}
          <a class="button primary" href="/ui/new" data-changes>${icon("plus")}<span class="hide-narrow">New import</span></a>
        </div>
      </div>
    </header>
    ${health && health.status !== "ready"
      ? html`<div class="strip bad" role="status">${icon("alert")} ${healthSentence()}</div>`
      : nothing}
    <main id="main" class="wide">${keyNeeded ? keyForm() : missing ? notFound() : page ? page.render() : nothing}</main>
    <div id="announcements" class="offscreen" role="status" aria-live="polite"></div>
    <div id="toasts" role="status" aria-live="polite"></div>
    <div class="drop-overlay" aria-hidden="true">Drop files to import them</div>
    ${helpDialog()}
  `
}

function logo() {
  return html`<svg viewBox="0 0 32 32" aria-hidden="true" class="logo">
    <rect width="32" height="32" rx="7"></rect>
    <path d="M8 10h16M8 16h10M8 22h6M23 15v9m-4-4 4 4 4-4"></path>
  </svg>`
}

function skip(event) {
  event.preventDefault()
  const main = document.querySelector("main")
  main.setAttribute("tabindex", "-1")
  main.focus()
}

function notFound() {
  return html`<div class="empty">
    <h1>No such page</h1>
    <p>There is no page at <code>${location.pathname}</code>.</p>
    <a class="button" href="/ui/imports">Go to the imports</a>
  </div>`
}

// The state of the service, from /ready, which needs no key.

async function watchHealth() {
  for (;;) {
    if (!document.hidden) {
      try {
        const response = await fetch("/ready", { cache: "no-store", credentials: "omit" })
        health = await response.json()
      } catch {
        health = { status: "unreachable", checks: {} }
      }
      draw()
    }
    await new Promise((resolve) => setTimeout(resolve, health?.status === "ready" ? 15000 : 3000))
  }
}

function healthPill() {
  if (!health) return nothing
  const isReady = health.status === "ready"
  const warning = Object.values(health.checks).some((check) => check.status === "warning")
  const [tone, label] = isReady ? (warning ? ["warn", "No workers"] : ["good", "Ready"]) : ["bad", "Not ready"]
  return html`<a class="chip ${tone} hide-narrow" href="/ui/service" title=${healthSentence()}><span class="dot" aria-hidden="true"></span>${label}</a>`
}

function healthSentence() {
  if (health.status === "unreachable") return "The service cannot be reached."
  if (health.status === "draining") return "This process of the service is stopping."
  const failed = Object.entries(health.checks).filter(([, check]) => !["ok"].includes(check.status))
  if (!failed.length) return "The service is ready."
  return failed.map(([name, check]) => `${name[0].toUpperCase()}${name.slice(1)}: ${check.detail ?? check.status}.`).join(" ")
}

// The key

onUnauthorized(() => {
  if (keyNeeded) return
  keyNeeded = true
  draw()
  document.querySelector("#key")?.focus()
})

function keyForm() {
  return html`<section class="center card">
    <h1>API key</h1>
    <p>This service needs a key. It decides what you may do here: read, or also change.</p>
    <form @submit=${useKey}>
      <label for="key">Key</label>
      <input
        id="key"
        type="password"
        autocomplete="off"
        required
        aria-describedby=${keyProblem ? "key-problem" : nothing}
        aria-invalid=${keyProblem ? "true" : nothing}
      />
      ${keyProblem ? html`<p id="key-problem" class="field-error">${icon("alert")} ${keyProblem}</p>` : nothing}
      <label class="check"><input id="keep-key" type="checkbox" checked /> Keep it until this tab is closed</label>
      <button class="primary" ?disabled=${keyBusy}>Continue</button>
    </form>
    <p class="muted small">The key is kept in this tab only: in no cookie, no address and no log.</p>
  </section>`
}

async function useKey(event) {
  event.preventDefault()
  const field = document.querySelector("#key")
  credentials.set(field.value.trim(), { keep: document.querySelector("#keep-key").checked })
  keyBusy = true
  keyProblem = null
  draw()
  for (;;) {
    try {
      await identify()
      break
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem
      if (!problem.isTemporary) {
        credentials.forget()
        keyBusy = false
        keyProblem = problem.status === 401 ? "This key is not valid." : problem.message
        draw()
        field.focus()
        field.select()
        return
      }
      for (let left = Math.ceil(problem.retryAfter ?? 2); left > 0; left -= 1) {
        keyProblem = `${problem.message} Next attempt in ${left} s.`
        draw()
        await new Promise((resolve) => setTimeout(resolve, 1000))
      }
    }
  }
  keyBusy = false
  keyProblem = null
  keyNeeded = false
  show()
}

/** Requests the role of the key. With the role `read` the pages offer no changing actions. */
async function identify() {
  identity = (await get("/api/v1/service")).key
  document.documentElement.dataset.role = identity?.role ?? "admin"
}

function forget() {
  credentials.forget()
  identity = null
  document.documentElement.dataset.role = "admin"
  keyNeeded = true
  page?.close()
  // unsent corrections of records
  for (const name of Object.keys(sessionStorage)) if (name.startsWith("bulk.mend.")) sessionStorage.removeItem(name)
  draw()
  document.querySelector("#key")?.focus()
}

// Help, settings and shortcuts

const SHORTCUTS = [
  ["i", "Imports", () => router.navigate("/ui/imports")],
  ["n", "New import", () => router.navigate("/ui/new")],
  ["e", "Exports", () => router.navigate("/ui/exports")],
  ["/", "Filter the list", () => document.querySelector("[data-filter]")?.focus()],
  ["r", "Pause or continue updates", pauseUpdates],
  ["t", "Change the theme", () => prefer("theme", { auto: "dark", dark: "light", light: "auto" }[preferences.theme])],
  ["?", "This help", help],
]

function pauseUpdates() {
  updates.paused = !updates.paused
  dispatchEvent(new Event("bulk:updates"))
  announce(updates.paused ? "Updates are paused." : "Updates go on.")
  draw()
}

function help() {
  document.querySelector("#help")?.showModal()
}

function helpDialog() {
  const option = (name, label) => html`<label class="check"
    ><input type="checkbox" .checked=${preferences[name]} @change=${(event) => prefer(name, event.target.checked)} /> ${label}</label
  >`
  return html`<dialog id="help" class="dialog" aria-labelledby="help-heading">
    <h2 id="help-heading">Settings and shortcuts</h2>
    <label for="theme">Theme</label>
    <select id="theme" .value=${preferences.theme} @change=${(event) => prefer("theme", event.target.value)}>
      <option value="auto" ?selected=${preferences.theme === "auto"}>As the system</option>
      <option value="light" ?selected=${preferences.theme === "light"}>Light</option>
      <option value="dark" ?selected=${preferences.theme === "dark"}>Dark</option>
    </select>
    ${option("utc", "Show times in UTC")} ${option("hidden", "Hide the values of records (for a shared screen)")}
    <label class="check"><input type="checkbox" .checked=${!updates.paused} @change=${pauseUpdates} /> Update the pages by themselves</label>
    ${option("shortcuts", "Keyboard shortcuts")}
    <table class="plain">
      <caption class="offscreen">Keyboard shortcuts</caption>
      <tbody>
        ${SHORTCUTS.map(([key, label]) => html`<tr><th scope="row"><kbd>${key}</kbd></th><td>${label}</td></tr>`)}
      </tbody>
    </table>
    <form method="dialog" class="buttons"><button class="primary">Close</button></form>
  </dialog>`
}

addEventListener("keydown", (event) => {
  if (!preferences.shortcuts || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return
  const target = event.target
  if (target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))) return
  const shortcut = SHORTCUTS.find(([key]) => key === event.key)
  if (!shortcut) return
  event.preventDefault()
  shortcut[2]()
})

// After an uncaught script error the page must not look intact
addEventListener("error", (event) => showFailure(event.message))
addEventListener("unhandledrejection", (event) => showFailure(event.reason?.message ?? String(event.reason)))

function showFailure(message) {
  const region = document.querySelector("#toasts")
  if (region) render(failure(new Problem(-1, { title: "The page has failed", detail: message })), region)
}

applyPreferences()
router.start(show)
acceptDrops()
// if the key is wrong, the requests of the page open the dialog for it
if (credentials.key) identify().then(() => draw(), () => {})
watchHealth()
// relative times
setInterval(() => !document.hidden && draw(), 20000)
