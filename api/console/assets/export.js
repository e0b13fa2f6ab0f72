// One export: its progress, its file, its selection.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { asCurl, download, get } from "./client.js"
import { act, cancel, destroy, progress } from "./exports.js"
import * as format from "./format.js"
import { Page } from "./page.js"
import { copyable, curl, exactTime, failure, icon, isFinal, loading, stale, state, time } from "./parts.js"
import { navigate } from "./router.js"

export default class ExportPage extends Page {
  /** The export; null until it is loaded. */
  job = null

  get title() {
    return this.job ? `Export of ${this.job.resource}` : "Export"
  }

  get path() {
    return `/api/v1/exports/${encodeURIComponent(this.params.id)}`
  }

  open() {
    this.poll(() => this.load())
  }

  async load() {
    const before = this.job
    this.job = await get(this.path, {}, this)
    if (before && !isFinal(before) && isFinal(this.job)) this.announce(`The export is ${this.job.status}.`)
    return isFinal(this.job) ? null : 1
  }

  render() {
    if (this.job === null) {
      if (this.problem?.status === 404) {
        return html`<div class="empty">
          <h1>No such export</h1>
          <p>It was deleted, or its time was over.</p>
          <a class="button" href="/ui/exports">All exports</a>
        </div>`
      }
      return this.problem ? failure(this.problem) : loading()
    }
    const { job } = this
    return html`
      <div class="head">
        <h1>Export of ${job.resource}</h1>
        ${state(job)}
        ${job.links.download
          ? html`<button type="button" class="primary" @click=${() => act(this, () => download(job.links.download))}>
              ${icon("download")} Download
            </button>`
          : nothing}
        ${job.watermark
          ? html`<a class="button" href=${`/ui/exports/new?resource=${job.resource}&changed_since=${encodeURIComponent(job.watermark)}`}
              >Export what has changed since</a
            >`
          : nothing}
        ${isFinal(job)
          ? html`<button type="button" data-changes class="danger" @click=${() => this.#delete()}>${icon("trash")} Delete</button>`
          : html`<button type="button" data-changes class="danger" @click=${() => act(this, () => cancel(job))}>${icon("stop")} Cancel</button>`}
        <p class="sub">Created ${time(job.created_at)}${job.created_by ? ` by ${job.created_by}` : ""}</p>
      </div>
      <div class="stack">
        ${stale(this)}
        ${job.problem
          ? html`<div class="notice bad" role="alert">
              ${icon("alert")}
              <div><strong>${job.problem.title}</strong><p>${job.problem.detail}</p></div>
            </div>`
          : nothing}
        ${job.waiting_for ? html`<div class="notice info" role="status">${icon("info")}<div>${job.waiting_for}</div></div>` : nothing}
        ${isFinal(job)
          ? nothing
          : html`<section class="card" aria-labelledby="progress">
              <h2 id="progress">Progress</h2>
              ${progress(job)}
              <div class="tiles note">
                ${tile(job.exported_records, "records written")} ${tile(job.total_records, "records in all")}
                ${tile(job.progress.records_per_second, "records a second")}
                <div class="tile">
                  <b>${job.progress.eta_seconds === null ? "–" : format.duration(job.progress.eta_seconds)}</b><span>time left</span>
                </div>
              </div>
            </section>`}
        <div class="halves">
          <section class="card" aria-labelledby="file">
            <h2 id="file">File</h2>
            ${job.file ? this.#file(job) : html`<p class="muted">${isFinal(job) ? "There is no file." : "It appears when it is whole."}</p>`}
          </section>
          <section class="card" aria-labelledby="selection">
            <h2 id="selection">Selection</h2>
            ${selection(job)}
          </section>
        </div>
        ${curl(asCurl("GET", job.links.download ?? job.links.self))}
      </div>
    `
  }

  #file(job) {
    return html`<dl class="facts">
      <dt>Records</dt><dd>${format.number(job.file.records)}</dd>
      <dt>Size</dt><dd>${format.bytes(job.file.bytes)}</dd>
      <dt>Type</dt><dd><code>${job.file.content_type}</code></dd>
      <dt>SHA-256</dt><dd>${copyable(job.file.sha256, "digest")}</dd>
      <dt>State of the data</dt><dd>${exactTime(job.snapshot_at)}</dd>
      <dt>Took</dt><dd>${format.duration(format.secondsBetween(job.started_at, job.finished_at))}</dd>
      <dt>${job.status === "expired" ? "Removed" : "Kept until"}</dt><dd>${exactTime(job.expires_at)}</dd>
    </dl>`
  }

  #delete() {
    return act(this, async () => {
      const done = await destroy(this.job)
      if (done) navigate("/ui/exports")
      return done
    })
  }
}

const tile = (value, label) =>
  html`<div class="tile"><b>${value === null ? "–" : format.number(Math.round(value))}</b><span>${label}</span></div>`

function selection(job) {
  return html`<dl class="facts">
    <dt>Format</dt><dd>${job.format}${job.compression === "none" ? "" : `, packed with ${job.compression}`}</dd>
    ${job.csv_safe ? html`<dt>Formulas</dt><dd>guarded by an apostrophe</dd>` : nothing}
    ${job.bom ? html`<dt>Byte order mark</dt><dd>yes</dd>` : nothing}
    <dt>Fields</dt><dd>${job.fields ? job.fields.join(", ") : "all"}</dd>
    ${Object.entries(job.filters).map(
      ([name, value]) => html`<dt><code>${name}</code></dt><dd class="value">${Array.isArray(value) ? value.join(", ") : String(value)}</dd>`,
    )}
    ${Object.keys(job.filters).length ? nothing : html`<dt>Filters</dt><dd>none</dd>`}
    ${job.changed_since ? html`<dt>Changed since</dt><dd>${copyable(job.changed_since, "watermark")}</dd>` : nothing}
    <dt>Id</dt><dd>${copyable(job.id, "id")}</dd>
  </dl>`
}
