// Files for the page "New import": chosen there, or dropped anywhere in the window.

import { navigate } from "./router.js"

const PAGE = "/ui/new"

let waiting = []
let receive = null

/** Opens the page "New import" with these files. */
export function handOver(files) {
  waiting.push(...files)
  if (location.pathname !== PAGE) navigate(PAGE)
  // the user may have chosen to stay on a page with unsaved work
  if (location.pathname !== PAGE) waiting = []
  else if (receive) receive(take())
}

/** Calls `listener(files)` with the files that are waiting and, until `signal` is aborted, with further ones. */
export function onFiles(listener, signal) {
  receive = listener
  signal.addEventListener("abort", () => {
    if (receive === listener) receive = null
  })
  if (waiting.length) listener(take())
}

function take() {
  const files = waiting
  waiting = []
  return files
}

/** Makes the whole window a drop target for files. */
export function acceptDrops() {
  const isBlocked = () => document.querySelector("dialog[open]") || document.documentElement.dataset.role === "read"
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files") && !isBlocked()
  const mark = (isOver) => document.body.classList.toggle("dragging", isOver)
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return
    event.preventDefault()
    event.dataTransfer.dropEffect = "copy"
    mark(true)
  })
  // relatedTarget is null when the pointer leaves the window, not when it enters another element
  addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false))
  addEventListener("drop", (event) => {
    mark(false)
    if (!hasFiles(event)) return
    event.preventDefault()
    handOver([...event.dataTransfer.files])
  })
}
