// Search in the exported page: PAPERS (search-index.js) holds what is known of each paper, by place.
const [TITLE, FILE, DAY, FIELD, ORGANISATION, SUBMITTER, AUTHORS, KEYWORDS, TEXT, KINDS] = Array(10).keys();
const SHOWN = 100;
const WEIGHTS = [[TITLE, 4], [AUTHORS, 3], [KEYWORDS, 2], [ORGANISATION, 1], [TEXT, 1]];

const asked = new URLSearchParams(location.search);
const folded = (text) => String(text).normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const words = (text) => folded(text).match(/[\p{L}\p{N}]+/gu) ?? [];

// How well a paper fits: every phrase has to be there, and so has the start of every word.
const score = (paper, terms, phrases) => {
  const parts = WEIGHTS.map(([place, weight]) => [folded([paper[place]].flat().join(", ")), weight]);
  if (!phrases.every((phrase) => parts.some(([text]) => text.includes(phrase)))) return 0;
  let total = 1;
  for (const term of terms) {
    const fits = parts.filter(([text]) => words(text).some((word) => word.startsWith(term)));
    if (!fits.length) return 0;
    total += Math.max(...fits.map(([, weight]) => weight));
  }
  return total;
};

const week = (text) => {
  const day = new Date(`${text}T00:00:00Z`);
  day.setUTCDate(day.getUTCDate() + 4 - (day.getUTCDay() || 7));
  const first = Date.UTC(day.getUTCFullYear(), 0, 1);
  return `${day.getUTCFullYear()}-W${String(Math.ceil(((day - first) / 864e5 + 1) / 7)).padStart(2, "0")}`;
};

const chosen = (paper) => {
  const is = (name, place) => !asked.get(name) || asked.get(name) === paper[place];
  const verdict = asked.get("verdict");
  const kinds = verdict === "any" ? ["holds", "fails"] : [verdict];
  return is("field", FIELD) && is("organisation", ORGANISATION) && is("submitter", SUBMITTER) && is("date", DAY)
    && (!asked.get("month") || paper[DAY].startsWith(asked.get("month")))
    && (!asked.get("week") || (paper[DAY] && week(paper[DAY]) === asked.get("week")))
    && (!asked.get("keyword") || paper[KEYWORDS].includes(asked.get("keyword")))
    && (!verdict || kinds.some((kind) => paper[KINDS].includes(kind)));
};

const element = (name, text, attributes = {}) => {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...[text].flat());
  return made;
};

const show = () => {
  const question = asked.get("q") ?? "";
  const phrases = [...question.matchAll(/"([^"]+)"/g)].map(([, phrase]) => folded(phrase));
  const terms = words(question.replace(/"[^"]*"/g, " "));
  const found = PAPERS.filter(chosen)
    .map((paper) => [score(paper, terms, phrases), paper])
    .filter(([fits]) => fits)
    .sort(([a, one], [b, other]) => b - a || other[DAY].localeCompare(one[DAY]));
  const named = [...asked].filter(([name, value]) => value && !["q", "sort", "after"].includes(name));
  const by = named.map(([name, value]) => `${name} ${value}`).join(", ");
  const shown = Math.min(found.length, SHOWN);
  document.getElementById("found").textContent =
    `${found.length} ${found.length === 1 ? "paper fits" : "papers fit"}${by && ` (${by})`}`
    + `${shown < found.length ? `; the first ${shown} are shown` : ""}. `
    + "This copy of the page finds words; search by meaning needs the server.";
  document.getElementById("results").replaceChildren(...found.slice(0, SHOWN).map(([, paper]) =>
    element("li", [
      element("div", [element("time", paper[DAY]), element("span", paper[FIELD])], { className: "when soft" }),
      element("div", [
        element("h2", element("a", paper[TITLE], { href: encodeURI(paper[FILE]) })),
        element("p", paper[TEXT]),
      ], { className: "what" }),
      element("div", paper[KINDS].map((kind) => element("span", kind, { className: `badge ${kind}` })), { className: "badges" }),
    ])));
};

for (const name of ["q", "field", "verdict"]) document.getElementById(name).value = asked.get(name) ?? "";
if ([...asked.values()].some(Boolean)) show();
