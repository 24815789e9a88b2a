// Drives pages of a server in Chromium, a command at a time.
//
//   node page.mjs < commands > answers
//
// A line in is a JSON object, a line out the answer to it: {"value"} or {"error"}. The commands are
// the functions of `commands` below, by `op`. The first one says which Chromium. It ends with its input.

import { createInterface } from 'node:readline'
import { launch } from './chromium.mjs'

/** How long an element is waited for. Only a failing test waits so long. */
const LIMIT_MILLIS = 30_000

let browser
let page
let requests = []
let complaints = []

const commands = {
  /** Opens a URL in a new page. `hosts` are names that lead to this machine. */
  async open({ url, chromium: executablePath, hosts = [] }) {
    browser ??= await launch(executablePath, hosts)
    page = await browser.newPage({ viewport: { width: 1000, height: 760 } })
    page.setDefaultTimeout(LIMIT_MILLIS)
    requests = []
    complaints = []
    page.on('request', (request) => requests.push(request.url()))
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(message.text())
    })
    page.on('pageerror', (error) => complaints.push(String(error)))
    await page.goto(url)
  },
  /** Types into the field of a label. */
  fill: ({ label, text }) => page.getByLabel(label).fill(text),
  /** Presses a button. */
  press: ({ button }) => page.getByRole('button', { name: button, exact: true }).click(),
  /** Waits until an element shows a text. */
  see: ({ selector, text }) => page.locator(selector, { hasText: text }).first().waitFor(),
  /** The texts of all elements that a selector means, in their order. */
  texts: ({ selector }) => page.locator(selector).allInnerTexts(),
  /** Runs a script in the page and gives the value of its last expression, if it is JSON. */
  run: ({ script }) => page.evaluate((text) => JSON.parse(JSON.stringify((0, eval)(text) ?? null)), script),
  /** Waits until an expression is true in the page. */
  until: ({ expression }) => page.waitForFunction(expression).then(() => null),
  /** URLs that the page asked for so far, in their order. */
  requests: () => requests,
  /** Errors and warnings on the console since this was last asked. */
  complaints: () => complaints.splice(0),
  /** Takes a picture, for people to look at. */
  picture: ({ file, colours = 'light' }) =>
    page.emulateMedia({ colorScheme: colours }).then(() => page.screenshot({ path: file, fullPage: true })).then(() => null),
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    const { op, ...rest } = JSON.parse(line)
    if (!commands[op]) throw new Error(`no command ${op}; there are ${Object.keys(commands).join(', ')}`)
    answer = { value: (await commands[op](rest)) ?? null }
  } catch (error) {
    answer = { error: String(error) }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
await browser?.close()
