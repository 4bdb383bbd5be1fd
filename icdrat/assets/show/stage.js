const notes = document.querySelectorAll('template'), stage = document.querySelector('main'), list = document.querySelector('.list ol')
const [back, next] = document.querySelectorAll('nav button'), [by_code, by_source, worst] = document.querySelectorAll('.list select, .list input')
const entries = [...list.querySelectorAll('li')], known = entries.map(li => JSON.parse(li.dataset.entry))
const number = () => Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), notes.length)
let order = known.map((_, i) => i + 1)
const open_at = n => { if (n) location.hash = n }
const turn = d => open_at(order[order.indexOf(number()) + d])
const checked = name => stage.querySelector(`input[name=${name}]:checked`).value
function choose(name, value) { const same = [...stage.querySelectorAll(`input[name=${name}]`)].find(i => i.value === value); if (same) same.checked = true }
function columns() { for (const s of stage.querySelectorAll('section:not(.first)')) s.hidden = by_source.value !== '' && s.dataset.source !== by_source.value }
function open_note() {
  const n = number(), kept = ['code', 'level', 'mode'].map(name => [name, checked(name)]), at = order.indexOf(n)
  if (stage.dataset.note !== String(n)) { stage.replaceChildren(notes[n - 1].content.cloneNode(true)); kept.forEach(([name, value]) => choose(name, value)); scrollTo(0, 0) }
  stage.dataset.note = n
  if (by_code.value) choose('code', by_code.value)
  columns()
  back.disabled = at < 1; next.disabled = at === order.length - 1
  document.querySelector('nav output').textContent = order.length ? `Note ${at + 1} of ${order.length}` : 'No note has this'
  entries.forEach((li, i) => li.firstElementChild.toggleAttribute('aria-current', i + 1 === n))
  entries[n - 1].firstElementChild.scrollIntoView({ block: 'nearest' })
}
