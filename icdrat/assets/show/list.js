function far(e) {
  const at = by_code.value ? e.codes.indexOf(by_code.value) + 1 : 0
  const numbers = Object.entries(e.far).filter(([s]) => !by_source.value || s === by_source.value).map(([_, f]) => (f[checked('level').slice(2)] || f.any)[at]).filter(x => x !== null)
  return numbers.length ? Math.max(...numbers) : -1
}
function arrange() {
  order = known.map((e, i) => i + 1).filter(n => !by_code.value || known[n - 1].codes.includes(by_code.value))
  if (worst.checked) order.sort((a, b) => far(known[b - 1]) - far(known[a - 1]))
  entries.forEach(li => li.hidden = true)
  for (const n of order) {
    const li = entries[n - 1], f = far(known[n - 1])
    li.hidden = false; list.append(li)
    li.querySelector('small').textContent = f < 0 ? 'nothing to compare' : `disagreement ${f.toFixed(2)}`
  }
  if (order.length && !order.includes(number())) open_at(order[0])
  else open_note()
}
list.onclick = e => open_at(e.target.closest('button')?.value)
by_code.onchange = by_source.onchange = () => arrange()
stage.addEventListener('change', e => { if (e.target.name === 'level') arrange() })
worst.onchange = () => { arrange(); if (worst.checked) open_at(order[0]) }
