package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hardened is a release in a namespace where Pod Security `restricted` is
// enforced: what is not admitted there fails the test that asks for it.
func hardened(t *testing.T) *release {
	t.Helper()
	c := need(t)
	if r := hardenedRelease; r != nil {
		r.explainFailure(t)
		return r
	}
	r := &release{c: c, namespace: c.namespace(t, "restricted")}
	c.k(t, "label", "namespace", r.namespace, "pod-security.kubernetes.io/enforce=restricted")
	r.explainFailure(t)
	r.helm(t, "install")
	r.weirs(t, 2)
	hardenedRelease = r
	return r
}

var hardenedRelease *release

// known waits until every weir knows a function, which was not made by deploy.
func (r *release) known(t *testing.T, name string) *function {
	t.Helper()
	for _, w := range r.weirs(t, r.count()) {
		eventually(t, name+" is known to "+w.name, func() error {
			_, err := w.status(name)
			return err
		})
	}
	return &function{r: r, name: name}
}

// manifest gives a document to the cluster, and takes it away with the test.
func (r *release) manifest(t *testing.T, text string) {
	t.Helper()
	r.c.apply(t, r.namespace, text)
	t.Cleanup(func() {
		if _, err := r.c.kubectl(text, "-n", r.namespace, "delete", "-f", "-", "--ignore-not-found", "--wait=false"); err != nil {
			t.Log(err)
		}
	})
}

// An event is what somebody told the owner of an object.
type event struct {
	Type, Reason, Message string
	InvolvedObject        struct{ Kind, Name string }
	FirstTimestamp        time.Time
	Count                 int
	Source                struct{ Component string }
}

// events are weir's of one function, the first first.
func (f *function) events(t *testing.T) []event {
	t.Helper()
	var list struct{ Items []event }
	if err := f.r.c.get("/api/v1/namespaces/"+f.r.namespace+"/events", &list); err != nil {
		t.Fatal(err)
	}
	all := slices.DeleteFunc(list.Items, func(e event) bool {
		return e.InvolvedObject.Name != f.name || e.Source.Component != "weir"
	})
	slices.SortStableFunc(all, func(a, b event) int { return a.FirstTimestamp.Compare(b.FirstTimestamp) })
	return all
}

// logs are all lines that the weirs of the release have written.
func (r *release) logs(t *testing.T) []string {
	t.Helper()
	text := r.c.k(t, "-n", r.namespace, "logs", "-l", "app.kubernetes.io/name=weir", "--tail=-1")
	return strings.Split(strings.TrimSpace(text), "\n")
}

// An explained is a change of replicas as weir tells it.
type explained struct {
	From, To    int
	Reason, Why string
}

func (e explained) String() string {
	return fmt.Sprintf("%d → %d, %s: %s", e.From, e.To, e.Reason, e.Why)
}

var (
	scaledLine   = regexp.MustCompile(`msg=scaled function=(\S+) from=(\d+) to=(\d+) reason=(\S+) why="(.*)"$`)
	scaledEvent  = regexp.MustCompile(`^(\d+) to (\d+) replicas \((\S+)\): (.*)$`)
	wokenLine    = regexp.MustCompile(`msg=woken function=(\S+) replicas=(\d+) `)
	wokenEvent   = regexp.MustCompile(`asked for (\d+) replicas$`)
	whyOfNumbers = regexp.MustCompile(`^(\S+) (.+) \(mean of 1m0s (\S+), of 6s (\S+)\), (\S+) to each replica: (\d+) of (\d+) to (\d+), (\d+) started(, in panic)?(?:, \d+ async messages ready to run)?$`)
)

// fromGateway is the reason of a change that a gateway made for its first
// caller, which has no numbers to explain.
const fromGateway = "first call"

// logged are the changes that the logs tell of, those of one function.
func (f *function) logged(t *testing.T) (all []explained, nameless int) {
	t.Helper()
	name := f.name + "." + f.r.namespace
	lines := f.r.logs(t)
	// Of several pods each has its lines in order; times are of one clock.
	slices.SortStableFunc(lines, func(a, b string) int {
		at, _, _ := strings.Cut(a, " ")
		bt, _, _ := strings.Cut(b, " ")
		return strings.Compare(at, bt)
	})
	for _, line := range lines {
		if m := scaledLine.FindStringSubmatch(line); m != nil && m[1] == name {
			all = append(all, explained{integer(t, m[2]), integer(t, m[3]), m[4], m[5]})
		}
		if m := wokenLine.FindStringSubmatch(line); m != nil && m[1] == name {
			all = append(all, explained{0, integer(t, m[2]), fromGateway, ""})
		}
	}
	return all, 0
}

// told are the changes that the function's Events tell of. Kubernetes' clients
// write ten Events of one reason and combine those that follow within ten
// minutes into one, which counts them and has the words of the last: the rest
// of them is nameless.
func (f *function) told(t *testing.T) (all []explained, nameless int) {
	t.Helper()
	for _, e := range f.events(t) {
		same := e.Count
		if text, combined := strings.CutPrefix(e.Message, "(combined from similar events): "); combined {
			e.Message, same = text, 1
			nameless += e.Count - 1
		}
		var one explained
		if m := scaledEvent.FindStringSubmatch(e.Message); m != nil {
			one = explained{integer(t, m[1]), integer(t, m[2]), m[3], m[4]}
		} else if m := wokenEvent.FindStringSubmatch(e.Message); e.Reason == "Woken" && m != nil {
			one = explained{0, integer(t, m[1]), fromGateway, ""}
		} else {
			continue
		}
		all = append(all, slices.Repeat([]explained{one}, same)...)
	}
	return all, nameless
}

func integer(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// explainedWrites are weir's changes of the function's replicas since a mark.
// The test fails unless each has its line in a log and its Event, and nothing
// but these is told.
func (f *function) explainedWrites(t *testing.T, since int64, replicas int) []explained {
	t.Helper()
	var made []explained
	for _, w := range f.writes(t, since, replicas) {
		if w.Done && w.New != w.Old && w.byWeir() {
			made = append(made, explained{From: w.Old, To: w.New})
		}
	}
	f.reconcile(t, "the logs", made, f.logged)
	f.reconcile(t, "Events", made, f.told)
	return made
}

// reconcile finds for each change what tells of it, and puts down the reason.
func (f *function) reconcile(t *testing.T, source string, made []explained, tell func(*testing.T) ([]explained, int)) {
	t.Helper()
	var left []explained
	nameless := 0
	eventually(t, "all changes of "+f.name+" are in "+source, func() error {
		if left, nameless = tell(t); len(left)+nameless < len(made) {
			return fmt.Errorf("%d changes made, %d told and %d counted: %v, %v", len(made), len(left), nameless, made, left)
		}
		return nil
	})
	for i, m := range made {
		// Those of one second may be listed in any order.
		j := slices.IndexFunc(left, func(e explained) bool { return e.From == m.From && e.To == m.To })
		switch {
		case j >= 0:
			made[i].Reason, made[i].Why = left[j].Reason, left[j].Why
			left = slices.Delete(left, j, j+1)
		case nameless > 0:
			nameless--
		default:
			t.Errorf("%s: nobody tells of the change %d → %d in %s", f.name, m.From, m.To, source)
		}
	}
	woken := slices.ContainsFunc(made, func(e explained) bool { return e.From == 0 })
	for _, e := range left {
		// Of two weirs that have a first caller at once both say so, and one
		// makes the write.
		if e.Reason != fromGateway || !woken {
			t.Errorf("%s: %s tell of a change that was not made: %v", f.name, source, e)
		}
	}
	if nameless > 0 {
		t.Errorf("%s: %s count %d changes more than were made", f.name, source, nameless)
	}
}

// numbers are those in an explanation by load.
type numbers struct {
	load, stable, steep, target     float64
	wanted, floor, highest, started int
	panicking                       bool
}

func (e explained) numbers(t *testing.T) numbers {
	t.Helper()
	m := whyOfNumbers.FindStringSubmatch(e.Why)
	if m == nil {
		t.Fatalf("no numbers in %v", e)
	}
	float := func(text string) float64 {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("%v: %v", e, err)
		}
		return v
	}
	return numbers{
		load: float(m[1]), stable: float(m[3]), steep: float(m[4]), target: float(m[5]),
		wanted: integer(t, m[6]), floor: integer(t, m[7]), highest: integer(t, m[8]), started: integer(t, m[9]),
		panicking: m[10] != "",
	}
}

// follows says why a change is not what the formula of docs/SCALING.md makes
// of its numbers.
func (e explained) follows(n numbers) error {
	load := n.stable
	if n.panicking {
		load = max(load, n.steep)
	}
	// The numbers are told with four digits.
	const rounded = 1e-3
	replicas := func(load float64) int {
		r := int(math.Ceil(load / n.target))
		if e.To < e.From {
			r = max(r, min(n.started/2, e.From)) // the most that one decision takes
		}
		return min(max(r, n.floor), n.highest)
	}
	switch low, high := replicas(load*(1-rounded)), replicas(load*(1+rounded)); {
	case e.To < low || e.To > high:
		return fmt.Errorf("%v: the formula makes it %d to %d", e, low, high)
	case n.wanted != e.To:
		return fmt.Errorf("%v: wanted are %d", e, n.wanted)
	case n.panicking && e.To < e.From:
		return fmt.Errorf("%v: lowered in panic", e)
	}
	return nil
}

// ask is one request, with a connection of its own.
func ask(t *testing.T, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	resp, text, err := tryAsk(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, text
}

var onceClient = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

func tryAsk(method, url string, body io.Reader) (*http.Response, string, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, "", err
	}
	resp, err := onceClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}
