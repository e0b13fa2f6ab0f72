// Templates that several pages use: states, bars, dialogs, empty and failed pages, copy buttons.

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js"
import * as format from "./format.js"

/** The six outcomes of a record, in the order of the bar. */
export const FATES = [
  { name: "created", label: "Created", css: "created" },
  { name: "updated", label: "Updated", css: "updated" },
  { name: "unchanged", label: "Unchanged", css: "unchanged" },
  { name: "skipped", label: "Skipped", css: "skipped" },
  { name: "failed", label: "Refused", css: "refused" },
  { name: "unprocessed", label: "Left", css: "left" },
]

const STATES = {
  pending: ["Waiting", "neutral", "◷"],
  processing: ["Running", "info", "▸"],
  completed: ["Completed", "good", "✓"],
  success: ["Completed", "good", "✓"],
  partial: ["Partly refused", "warn", "◐"],
  rejected: ["All refused", "bad", "✕"],
  failed: ["Failed", "bad", "✕"],
  cancelled: ["Cancelled", "neutral", "⊘"],
  expired: ["Expired", "neutral", "⊘"],
}

/** The state of a job as a word with a sign, so that colour is not the only difference. */
export function state(job) {
  const [label, tone, sign] = STATES[job.outcome ?? job.status] ?? [job.status, "neutral", "•"]
  return html`<span class="chip ${tone}"><span aria-hidden="true">${sign}</span> ${label}</span>`
}

export const isFinal = (job) => !["pending", "processing"].includes(job.status)

/** A stacked bar of the outcomes of all records; it always adds up to the total. */
export function fates(job, { tall = false } = {}) {
  const total = job.total_records
  const done = total - job.counts.unprocessed
  let x = 0
  const parts = FATES.filter(({ name }) => name !== "unprocessed" && job.counts[name]).map(({ name, css }) => {
    // a part that is not 0 is always wide enough to be visible
    const width = Math.max((1000 * job.counts[name]) / total, 3)
    const part = svg`<rect class="fate ${css}" x=${x} y="0" width=${width} height="10"></rect>`
    x += width
    return part
  })
  const text = total
    ? `${format.percent(done, total)} done: ${FATES.filter(({ name }) => job.counts[name])
        .map(({ name, label }) => `${format.number(job.counts[name])} ${label.toLowerCase()}`)
        .join(", ")}`
    : "no records"
  return html`<svg class="fates ${tall ? "tall" : ""}" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=${text}>
    ${parts}
  </svg>`
}

/** The numbers beside the bar. */
export function legend(job) {
  return html`<ul class="legend">
    ${FATES.filter(({ name }) => job.counts[name] || ["created", "failed", "unprocessed"].includes(name)).map(
      ({ name, label, css }) =>
        html`<li><span class="swatch ${css}" aria-hidden="true"></span>${label} <b>${format.number(job.counts[name])}</b></li>`,
    )}
  </ul>`
}

/** A time as "3 minutes ago", with the exact one on hover. */
export function time(value) {
  return value ? html`<time datetime=${value} title=${format.exact(value)}>${format.ago(value)}</time>` : "–"
}

/** The exact time. */
export function exactTime(value) {
  return value ? html`<time datetime=${value}>${format.exact(value)}</time>` : "–"
}

/** An icon of 16 × 16; decoration, so hidden from screen readers. */
export function icon(name) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">${ICONS[name]}</svg>`
}

const ICONS = {
  plus: svg`<path d="M8 3v10M3 8h10"/>`,
  upload: svg`<path d="M8 11V3m-3 3 3-3 3 3M3 11v2h10v-2"/>`,
  download: svg`<path d="M8 3v8m-3-3 3 3 3-3M3 13h10"/>`,
  search: svg`<circle cx="7" cy="7" r="4"/><path d="m10 10 3.5 3.5"/>`,
  close: svg`<path d="m4 4 8 8m0-8-8 8"/>`,
  check: svg`<path d="m3 8.5 3.5 3.5L13 5"/>`,
  alert: svg`<path d="M8 5v4m0 2.5v.01M8 2 1.5 13.5h13z"/>`,
  info: svg`<circle cx="8" cy="8" r="6"/><path d="M8 7.5V11m0-6v.01"/>`,
  copy: svg`<rect x="5" y="5" width="8" height="8" rx="1.5"/><path d="M3 11V4.5A1.5 1.5 0 0 1 4.5 3H11"/>`,
  retry: svg`<path d="M13 8a5 5 0 1 1-1.5-3.6M13 2.5v3h-3"/>`,
  stop: svg`<rect x="4" y="4" width="8" height="8" rx="1"/>`,
  undo: svg`<path d="M3 8a5 5 0 1 0 1.5-3.6M3 2.5v3h3"/>`,
  trash: svg`<path d="M3 4.5h10M6 4.5V3h4v1.5M4.5 4.5 5 13h6l.5-8.5"/>`,
  edit: svg`<path d="m10.5 3.5 2 2L6 12l-2.7.7L4 10z"/>`,
  pause: svg`<path d="M5.5 4v8m5-8v8"/>`,
  play: svg`<path d="m5 3.5 7 4.5-7 4.5z"/>`,
  theme: svg`<circle cx="8" cy="8" r="5.5"/><path d="M8 2.5v11a5.5 5.5 0 0 0 0-11" fill="currentColor"/>`,
  help: svg`<path d="M6 6a2 2 0 1 1 2.6 1.9c-.4.2-.6.5-.6 1v.6m0 2v.01"/><circle cx="8" cy="8" r="6.5"/>`,
  key: svg`<circle cx="5.5" cy="10.5" r="2.5"/><path d="m7.5 8.5 5-5m-2 2 1.5 1.5"/>`,
  arrow: svg`<path d="M3 8h10m-4-4 4 4-4 4"/>`,
  open: svg`<path d="M6 3h7v7m0-7L5 11"/>`,
  eye: svg`<path d="M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8"/><circle cx="8" cy="8" r="2"/>`,
  file: svg`<path d="M4 2h5l3 3v9H4zM9 2v3h3"/>`,
}

/** The text for an empty page or part: the reason, and what to do. */
export function empty(heading, text, action = nothing) {
  return html`<div class="empty"><h2>${heading}</h2><p>${text}</p>${action}</div>`
}

/** A problem with its details and what to do. `retry` is a function, or null. */
export function failure(problem, retry = null) {
  const heading =
    problem.status === 0
      ? "The service cannot be reached"
      : problem.status === 503
        ? "The service is not available at the moment"
        : problem.title || "The request failed"
  return html`<div class="notice bad" role="alert">
    ${icon("alert")}
    <div>
      <strong>${heading}</strong>
      <p>${problem.message}</p>
      ${problem.errors.length
        ? html`<ul>
            ${problem.errors.map((error) => html`<li><code>${error.field}</code> ${error.message}</li>`)}
          </ul>`
        : nothing}
      ${problem.requestId ? html`<p class="muted small">Request <code>${problem.requestId}</code></p>` : nothing}
      ${problem.isTemporary ? html`<p class="small">It is tried again by itself.</p>` : nothing}
      ${retry ? html`<button type="button" @click=${retry}>${icon("retry")} Try again</button>` : nothing}
    </div>
  </div>`
}

/** A note above a page whose state is old because the service does not respond. */
export function stale(page) {
  if (!page.problem || !page.loadedAt) return nothing
  return html`<div class="notice warn" role="status">
    ${icon("alert")}
    <div>
      <strong>${page.problem.status === 0 ? "The service cannot be reached." : page.problem.message}</strong>
      What you see is from ${format.exact(page.loadedAt)}. ${page.problem.isTemporary ? "It is tried again by itself." : ""}
    </div>
  </div>`
}

/** The placeholder during the first load. */
export function loading(what = "Loading") {
  return html`<p class="loading" role="status">${what}…</p>`
}

/**
 * Asks for a confirmation. `confirmLabel` names the action. Resolves with true or false. Afterwards the focus is restored.
 */
export function ask({ heading, text, confirmLabel, danger = false }) {
  const dialog = document.createElement("dialog")
  dialog.className = "dialog"
  const title = document.createElement("h2")
  title.textContent = heading
  title.id = "ask-heading"
  dialog.setAttribute("aria-labelledby", title.id)
  const body = document.createElement("p")
  body.textContent = text
  const buttons = document.createElement("div")
  buttons.className = "buttons"
  const no = document.createElement("button")
  no.type = "button"
  no.textContent = "Keep as it is"
  const yes = document.createElement("button")
  yes.type = "button"
  yes.className = danger ? "danger" : "primary"
  yes.textContent = confirmLabel
  buttons.append(no, yes)
  dialog.append(title, body, buttons)
  document.body.append(dialog)
  return new Promise((resolve) => {
    let answer = false
    no.addEventListener("click", () => dialog.close())
    yes.addEventListener("click", () => {
      answer = true
      dialog.close()
    })
    dialog.addEventListener("close", () => {
      dialog.remove()
      resolve(answer)
    })
    dialog.showModal()
  })
}

/** Shows a sentence at the edge of the window for some seconds, and announces it to screen readers. */
export function toast(text, tone = "good") {
  const region = document.querySelector("#toasts")
  const element = document.createElement("div")
  element.className = `toast ${tone}`
  element.textContent = text
  region?.append(element)
  setTimeout(() => element.remove(), 6000)
}

/** Copies a text; without a secure context the clipboard API is missing, so the text is selected and copied. */
export async function copy(text) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text)
    else {
      const area = document.createElement("textarea")
      area.value = text
      area.className = "offscreen"
      document.body.append(area)
      area.select()
      document.execCommand("copy")
      area.remove()
    }
    toast("Copied")
  } catch {
    toast("The browser does not allow copying", "bad")
  }
}

/** A command line with a button that copies it. */
export function command(text) {
  return html`<div class="command">
    <pre><code>${text}</code></pre>
    <button type="button" class="quiet" aria-label="Copy the command" @click=${() => copy(text)}>${icon("copy")}</button>
  </div>`
}

/** "as curl": the request of an action, collapsed. */
export function curl(text) {
  return html`<details class="curl"><summary>as curl</summary>${command(text)}</details>`
}

/** A text with a button that copies it. */
export function copyable(text, label) {
  return html`<span class="copyable"
    ><code>${text}</code>
    <button type="button" class="quiet icon-only" aria-label="Copy the ${label}" @click=${() => copy(text)}>${icon("copy")}</button></span
  >`
}
