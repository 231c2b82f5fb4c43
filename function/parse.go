package function

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Sources are the places where an owner may say what a function is to be, in
// the order in which they count: what an earlier one says, a later one cannot
// change.
type Sources struct {
	// Kind, Namespace and Name are the object's, for faults. Names without a
	// namespace in DependsOn are of Namespace.
	Kind, Namespace, Name string

	Annotations, Labels                 map[string]string
	TemplateAnnotations, TemplateLabels map[string]string
}

// places are in order of precedence.
var places = [...]struct {
	name string
	of   func(*Sources) map[string]string
}{
	{"annotation", func(s *Sources) map[string]string { return s.Annotations }},
	{"label", func(s *Sources) map[string]string { return s.Labels }},
	{"template annotation", func(s *Sources) map[string]string { return s.TemplateAnnotations }},
	{"template label", func(s *Sources) map[string]string { return s.TemplateLabels }},
}

func (s *Sources) has(key string) bool {
	for _, p := range places {
		if _, found := p.of(s)[key]; found {
			return true
		}
	}
	return false
}

// value is what stands at one key in one place.
type value struct {
	key, text, place string
	by               vocabulary
}

// draft is a Spec while it is read.
type draft struct {
	Spec
	src    *Sources
	faults []Fault
	// given are the values that were understood, by the name of the setting
	// in weir's vocabulary; a default is not given.
	given map[string]value
	// zero is what was said of it, beside what min says.
	zero bool
}

// Parse reads what an owner wrote in any of the three vocabularies. marked
// says whether this is a function at all; spec is of use only if it is, and
// then always within its bounds. Each value that cannot be used is a fault and
// has the default of the vocabulary that marked the object in its place.
// Of an object that is not marked the faults are only those that may be why.
func Parse(src Sources) (spec Spec, marked bool, faults []Fault) {
	d := &draft{src: &src, given: map[string]value{}}
	d.checkNames()
	by, marked := d.mark()
	if !marked {
		return Spec{}, false, d.faults
	}
	for i := range settings {
		d.take(&settings[i], by)
	}
	d.reconcile(by)
	d.reconcileRetry(by)
	d.checkVisibility()
	return d.Spec, true, d.faults
}

// mark says which vocabulary marks the object: the highest that does. Weir's
// own "false" is the last word.
func (d *draft) mark() (by vocabulary, marked bool) {
	for by := range vocabularies {
		if by == openfaas {
			// Any value marks it, an empty one too.
			if d.src.has(marks[openfaas]) {
				return openfaas, true
			}
			continue
		}
		v, found := d.find(marks[by], by)
		if !found {
			continue
		}
		switch yes, ok := readBool(v.text); {
		case !ok:
			d.fault(v, plain(acceptsBool))
		case yes:
			return by, true
		case by == weir:
			return by, false
		}
	}
	return 0, false
}

// take reads one setting from wherever it counts, else its default.
func (d *draft) take(s *setting, marked vocabulary) {
	for by := range vocabularies {
		v, found := d.find(s.keys[by], by)
		if !found {
			continue
		}
		expected := s.read(d, v)
		if expected == "" {
			d.given[s.keys[weir]] = v
			return
		}
		d.fault(v, expected)
		break
	}
	if def := s.defaults[marked]; def != "" {
		v := value{text: def, place: "default", by: marked}
		if expected := s.read(d, v); expected != "" {
			panic("function: the default of " + s.keys[weir] + " is not " + expected)
		}
	}
}

// find returns the value that counts of those at a key. An empty one is as
// none.
func (d *draft) find(key string, by vocabulary) (value, bool) {
	if key == "" {
		return value{}, false
	}
	for _, p := range places {
		if text := strings.TrimSpace(p.of(d.src)[key]); text != "" {
			return value{key, text, p.name, by}, true
		}
	}
	return value{}, false
}

// reconcile settles what settings say of one another.
func (d *draft) reconcile(marked vocabulary) {
	least, minGiven := d.given[weirPrefix+"min"]
	most, maxGiven := d.given[weirPrefix+"max"]
	switch {
	case d.Min <= d.Max:
	case minGiven && maxGiven:
		// The ceiling is kept: it is there to protect something.
		d.fault(least, fmt.Sprintf("at most %s, which is %d", most.key, d.Max))
		delete(d.given, weirPrefix+"min")
		minGiven = false
		d.Min = 1
		if marked == slimfaas {
			d.Min = 0
		}
	default:
		d.Max = d.Min
	}

	asleep := d.Min == 0
	d.Min = max(1, d.Min)
	d.Zero = asleep
	if said, ok := d.given[weirPrefix+"zero"]; ok && !(asleep && minGiven && least.by < said.by) {
		d.Zero = d.zero
		if asleep && minGiven && least.by == said.by && !d.zero {
			d.fault(least, "at least 1 where "+said.key+" is "+quote(said.text))
		}
	}

	if v, ok := d.given[weirPrefix+"at-start"]; ok && d.AtStart > d.Max {
		d.fault(v, fmt.Sprintf("at most max, which is %d", d.Max))
		d.AtStart = 0
	}
}

// reconcileRetry settles which of two waits gives way.
func (d *draft) reconcileRetry(marked vocabulary) {
	r := &d.Retry
	if r.MinWait <= r.MaxWait {
		return
	}
	least, minGiven := d.given[weirPrefix+"retry-min-wait"]
	most, maxGiven := d.given[weirPrefix+"retry-max-wait"]
	switch {
	case minGiven && maxGiven:
		d.fault(least, fmt.Sprintf("at most %s, which is %s", most.key, r.MaxWait))
		r.MinWait = DefaultRetryMinWait
		if marked == slimfaas {
			r.MinWait = SlimFaasRetryMinWait
		}
		r.MinWait = min(r.MinWait, r.MaxWait)
	case minGiven:
		r.MaxWait = r.MinWait
	default:
		r.MinWait = r.MaxWait
	}
}

// checkNames finds names that look like weir's and are not. Those of the other
// vocabularies are left alone: they have more than weir reads.
func (d *draft) checkNames() {
	for _, p := range places {
		for key, text := range p.of(d.src) {
			if !strings.HasPrefix(key, weirPrefix) || key == marks[weir] {
				continue
			}
			if !slices.ContainsFunc(settings, func(s setting) bool { return s.keys[weir] == key }) {
				d.fault(value{key, text, p.name, weir}, "one of "+weirKeys())
			}
		}
	}
	slices.SortFunc(d.faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Key, b.Key))
	})
}

func weirKeys() string {
	keys := []string{marks[weir]}
	for i := range settings {
		keys = append(keys, settings[i].keys[weir])
	}
	return strings.Join(keys, ", ")
}

// checkVisibility speaks up where SlimFaas would keep outsiders away from a
// function and weir does not.
func (d *draft) checkVisibility() {
	v, found := d.find("SlimFaas/DefaultVisibility", slimfaas)
	if found && strings.EqualFold(v.text, "private") {
		d.fault(v, "Public: weir does not tell callers apart, keep it private by a NetworkPolicy or at the ingress")
	}
}

// fault notes that v cannot be used, once for each place and key.
func (d *draft) fault(v value, expected string) {
	f := Fault{
		Object: fmt.Sprintf("%s %s/%s, %s", d.src.Kind, d.src.Namespace, d.src.Name, v.place),
		Key:    v.key, Value: v.text, Expected: expected,
	}
	same := func(g Fault) bool { return g.Object == f.Object && g.Key == f.Key }
	if !slices.ContainsFunc(d.faults, same) {
		d.faults = append(d.faults, f)
	}
}

// plain is text of the documentation without its marks.
func plain(text string) string { return strings.ReplaceAll(text, "`", "") }
