function spots() {
  const code = stage.querySelector('input[name=code]:checked').className.replace('k', ''), level = checked('level').slice(2)
  const wanted = code === 'all' ? 'mark.s, .b4, .b5' : `mark.s.c${code}, .s${code}_4, .s${code}_5`
  return [...stage.querySelectorAll(wanted)].filter(e => e.offsetParent && (level === 'any' || e.matches(`span, .${level}`) || !e.closest('.graded')))
}
function walk(d) {
  const all = spots(), at = all.indexOf(document.activeElement), to = all[at < 0 ? (d > 0 ? 0 : all.length - 1) : (at + d + all.length) % all.length]
  if (!to) return
  to.tabIndex = -1; to.focus({ preventScroll: true }); to.scrollIntoView({ block: 'center' })
}
stage.addEventListener('change', e => { if (e.target.name === 'code') spots()[0]?.scrollIntoView({ block: 'nearest' }) })
stage.addEventListener('click', e => {
  const mark = e.target.closest('mark'), all = stage.querySelector('.all')
  if (!mark || !getSelection().isCollapsed) return
  const button = stage.querySelector('input.' + mark.classList[0].replace('c', 'k'))
  ;(button.checked ? all : button).click()
})
addEventListener('keydown', e => {
  if (e.altKey || e.ctrlKey || e.metaKey || e.target.matches('select')) return
  const d = { j: 1, k: -1 }[e.key], page = { n: 1, p: -1 }[e.key] || (e.target.matches('input') ? 0 : { ArrowRight: 1, ArrowLeft: -1 }[e.key])
  if (e.key === 'Escape') stage.querySelector('.all').click()
  if (e.key === 'Enter' && e.target.matches('main input')) { e.preventDefault(); walk(1) }
  if (d) walk(d)
  if (page) turn(page)
})
back.onclick = () => turn(-1); next.onclick = () => turn(1)
document.querySelector('.list').open = innerWidth >= 1000
onhashchange = open_note; arrange()
