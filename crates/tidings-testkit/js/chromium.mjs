// Debian's Chromium, headless, asking nobody but the pages of the test.

/** Starts it. `hosts` are names that lead to this machine. */
export async function launch(executablePath, hosts = []) {
  // Not at the top: who reads with another client need not wait for it.
  const { chromium } = await import('playwright-core')
  const rules = hosts.map((host) => `MAP ${host} 127.0.0.1`).join(',')
  return chromium.launch({
    executablePath,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...(rules ? [`--host-resolver-rules=${rules}`] : []),
    ],
  })
}
