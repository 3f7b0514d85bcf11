// A real Chromium, driven line by line: each line of standard input is a JSON command, each line of standard output its
// answer. Ends with its input. What a tab asked of the network and wrote to its console is kept and told on demand.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [chromium, modules] = process.argv.slice(2);
const { chromium: driver } = createRequire(`${modules}/`)("playwright-core");

const browser = await driver.launch({
  executablePath: chromium,
  headless: true,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
const tabs = [];

const commands = {
  // {width, height, dark, script, url} -> number of the tab
  async open({ width, height, dark, script, url }) {
    const context = await browser.newContext({
      viewport: { width, height },
      colorScheme: dark ? "dark" : "light",
      javaScriptEnabled: script,
      reducedMotion: "reduce",
    });
    const page = await context.newPage();
    page.setDefaultTimeout(15000);
    const tab = { page, requests: [], trouble: [] };
    page.on("request", request => tab.requests.push(request.url()));
    page.on("pageerror", error => tab.trouble.push(String(error)));
    page.on("console", said => {
      if (["error", "warning"].includes(said.type())) tab.trouble.push(said.text());
    });
    tabs.push(tab);
    await page.goto(url);
    return tabs.length - 1;
  },
  // {tab, of} -> value of an expression
  value: ({ tab, of }) => tabs[tab].page.evaluate(of),
  // {tab, of} -> the visible text
  text: ({ tab, of }) => tabs[tab].page.locator(of).first().innerText(),
  click: ({ tab, of }) => tabs[tab].page.locator(of).first().click(),
  fill: ({ tab, of, text }) => tabs[tab].page.locator(of).first().fill(text),
  press: ({ tab, of }) => tabs[tab].page.keyboard.press(of),
  shot: async ({ tab, file, full }) => void (await tabs[tab].page.screenshot({ path: file, fullPage: full })),
  // -> {requests, trouble} since it was opened
  seen: ({ tab }) => ({ requests: tabs[tab].requests, trouble: tabs[tab].trouble }),
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const command = JSON.parse(line);
    answer = { value: (await commands[command.do](command)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
