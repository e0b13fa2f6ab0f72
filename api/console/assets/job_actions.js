// The actions on an import, from the list and from its own page. Those that lose data ask for a confirmation.

import { download, post, Problem, remove } from "./client.js"
import * as format from "./format.js"
import { ask, toast } from "./parts.js"

/** The name of the file, or the id if it has none. */
export const nameOf = (job) => job.file.name ?? `import ${format.shortId(job.id)}`

/** How many records were accepted, stored or not. */
export const taken = ({ counts }) => counts.created + counts.updated + counts.unchanged + counts.skipped

/** Whether it has refused records that no later import has accepted. */
export const canMend = (job) => Boolean(job.links.repair) && job.repaired?.left !== 0

/** Runs `action` and shows the message `done`. Returns the result, or null after showing the error. */
async function act(action, done) {
  try {
    const result = (await action()) ?? true
    if (done) toast(done)
    return result
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    toast(error.message, "bad")
    return null
  }
}

/** Each returns a true value if it succeeded; retry and commit return the new job. */

export async function cancel(job) {
  const sure = await ask({
    heading: "Cancel this import?",
    text: `What is stored stays. ${format.count(job.counts.unprocessed, "record")} of ${nameOf(job)} will not be imported.`,
    confirmLabel: "Cancel the import",
    danger: true,
  })
  return sure && act(() => post(job.links.cancel), "The import is being cancelled")
}

export function retry(job) {
  return act(() => post(job.links.retry), "A new import tries the refused and left records again")
}

export async function commit(job) {
  const sure = await ask({
    heading: `Store ${format.count(taken(job), "record")}?`,
    text:
      `The file was checked and is imported now, without a second upload.` +
      (job.counts.failed ? ` ${format.count(job.counts.failed, "record")} will be refused again.` : ""),
    confirmLabel: "Store the records",
  })
  return sure && act(() => post(job.links.commit), "The records are being stored")
}

/** Whether its undo would remove records, or may do so now. */
export const canUndo = ({ links, counts, undo: state }) =>
  Boolean(links.undo) && counts.created > 0 && (!state || (state.status === "finished" && state.kept.referred_to > 0))

export async function undo(job) {
  const sure = await ask({
    heading: "Undo this import?",
    text:
      `The ${format.count(job.counts.created, "record")} that it created will be deleted, except those that were changed since, ` +
      "or that others refer to. Records that it updated stay as they are.",
    confirmLabel: "Undo the import",
    danger: true,
  })
  return sure && act(() => post(job.links.undo), "The import is being undone")
}

export async function discard(job) {
  const sure = await ask({
    heading: "Delete this import?",
    text:
      `The job, its file and its ${format.count(job.error_count, "error")} are removed.` +
      (job.dry_run ? "" : " The records that it stored stay."),
    confirmLabel: "Delete",
    danger: true,
  })
  return sure && act(() => remove(job.links.self), "The import was deleted")
}

export function fetchFile(path) {
  return act(() => download(path), "The download has begun")
}
