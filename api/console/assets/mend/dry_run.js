// A mended dry run: its records, and those of its repairs, are stored by commits.

import { html, nothing } from "../vendor/lit-html/lit-html.js"
import { asCurl } from "../client.js"
import * as format from "../format.js"
import { curl, icon } from "../parts.js"
import { PATH } from "./repair.js"

/** What can be stored of a dry run, with the button that stores it. */
export function commitNotice({ job, repairs }, counts, store) {
  const sound = job.total_records - job.counts.failed
  return html`<div class="notice info">
    ${icon("info")}
    <div>
      <strong>Nothing is stored yet: this is a dry run.</strong>
      <p>
        ${format.count(sound, "record")} of the file and ${format.count(counts.taken, "mended record")} can be stored now.
        ${counts.untouched + counts.out ? `Still refused: ${format.count(counts.untouched + counts.out, "record")}.` : ""}
      </p>
      <p class="row">
        <button type="button" class="primary" data-changes @click=${store}>
          ${icon("check")} Store ${format.count(sound + counts.taken, "record")}
        </button>
      </p>
      ${curl([job, ...repairs].map(({ id }) => asCurl("POST", `${PATH}/${id}/commit`)).join("\n"))}
    </div>
  </div>`
}

/** What the commits of a dry run and its repairs have stored; a button for those that are missing. */
export function storedNotice({ family }, commits, store) {
  const sum = (name) => commits.reduce((total, { counts }) => total + counts[name], 0)
  const refused = sum("failed")
  const isWhole = commits.length === family.length
  return html`<div class="notice ${isWhole ? "good" : "warn"}">
    ${icon(isWhole ? "check" : "alert")}
    <div>
      <strong>${format.count(sum("created") + sum("updated") + sum("unchanged") + sum("skipped"), "record")} stored.</strong>
      ${refused ? html`<p>Still refused: ${format.count(refused, "record")}.</p>` : nothing}
      <ul>
        ${commits.map(
          (job, n) =>
            html`<li>
              <a href=${`/ui/imports/${job.id}`}>${n ? "Mended records" : "Records of the file"}</a>${
                job.counts.failed
                  ? html`: <a href=${`/ui/imports/${job.id}/mend`}>mend ${format.count(job.counts.failed, "record")}</a>`
                  : nothing
              }
            </li>`,
        )}
      </ul>
      ${isWhole ? nothing : html`<p><button type="button" data-changes @click=${store}>Store the others</button></p>`}
    </div>
  </div>`
}
