package local

import (
	"slices"

	"github.com/weir-run/weir/function"
)

// Reload reads the stack file anew: functions that are new come, those that
// are gone go, and replicas whose settings changed are replaced one by one, an
// old one going when a new one was heard to serve. A file with faults changes
// nothing; the error says what is wrong, as New's.
func (p *Provider) Reload() error {
	s, err := readStack(p.cfg.Stack, p.cfg.Namespace)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, note := range s.notes {
		p.cfg.Log.Info("stack file: "+note, "file", p.cfg.Stack)
	}
	known := map[function.Ref]bool{}
	for _, d := range s.functions {
		known[d.ref] = true
		w := p.functions[d.ref]
		if w != nil && (w.def.addr != "") == (d.addr != "") {
			p.redefine(w, d)
			continue
		}
		if w != nil {
			p.remove(w)
		}
		w = p.add(d)
		p.tellFaults(w)
		w.publish()
	}
	for ref, w := range p.functions {
		if !known[ref] {
			p.remove(w)
		}
	}
	return nil
}

func (p *Provider) remove(w *workload) {
	w.leave()
	delete(p.functions, w.def.ref)
	if p.fleet != nil {
		p.fleet.Delete(w.def.ref)
	}
}

func (p *Provider) redefine(w *workload, d *definition) {
	news := !slices.Equal(w.def.faults, d.faults)
	w.def = d
	w.revise()
	if news {
		p.tellFaults(w)
	}
	w.publish()
	if !w.roll() {
		p.replicas.Go(func() { p.follow(w, d) })
	}
}

// follow replaces replicas until all are of definition d, or there is a newer
// one.
func (p *Provider) follow(w *workload, d *definition) {
	for {
		changed := p.fleet.Changed()
		p.mu.Lock()
		over := w.def != d || w.roll()
		p.mu.Unlock()
		if over {
			return
		}
		select {
		case <-changed:
		case <-p.over:
			return
		}
	}
}

// tellFaults tells the owner of the settings that could not be used.
func (p *Provider) tellFaults(w *workload) {
	for _, fault := range w.def.faults {
		p.Event(w.def.ref, function.Event{Warning: true, Reason: "BadSetting", Message: fault.String() + "; the default is used"})
	}
}
