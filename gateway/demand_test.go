package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// near allows for what floating point loses.
func near(a, b float64) bool { return math.Abs(a-b) < 1e-6 }

func TestDemandIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		fn := describe("a", 1, 1)
		e := put(f, fn, started(2, 0))
		l := g.lane(e)
		begin := time.Now()
		for i := range 5 {
			go func() {
				// Two at once for ten seconds each: 0-10, 0-10, 10-20, 10-20, 20-30.
				time.Sleep(time.Duration(i) * time.Millisecond)
				c := &caller{l: l}
				if err := c.get(t.Context()); err != nil {
					t.Error(err)
				}
				time.Sleep(10*time.Second - time.Duration(i%2)*time.Millisecond)
				c.done(took)
				l.exit(200, 0)
			}()
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		d := g.Report().Functions[0]
		if d.Function != "a.ns" || d.Running != 2 || d.Held != 3 || d.Calls != 5 || !d.LastEnd.IsZero() || !d.LastWake.IsZero() {
			t.Errorf("after 5 s: %+v", d)
		}
		if want := 2*5 - .001; !near(d.RunningSeconds, want) || !near(d.Pods["a-0"].Seconds, want) {
			t.Errorf("ran for %v s, at the pod %v s, expected %v s", d.RunningSeconds, d.Pods["a-0"].Seconds, want)
		}
		if want := 3*5 - .002 - .003 - .004; !near(d.HeldSeconds, want) {
			t.Errorf("held for %v s, expected %v s", d.HeldSeconds, want)
		}
		if !d.LastStart.Equal(begin.Add(4 * time.Millisecond)) {
			t.Errorf("last start %v after the first", d.LastStart.Sub(begin))
		}
		time.Sleep(time.Hour)
		d = g.Report().Functions[0]
		pod := d.Pods["a-0"]
		if d.Running != 0 || d.Held != 0 || pod.Running != 0 || pod.Calls != 5 || pod.Refused != 0 || pod.UID != "a-0" {
			t.Errorf("an hour later: %+v", d)
		}
		if want := 5*10 - 2*.001; !near(d.RunningSeconds, want) || !near(pod.Seconds, want) {
			t.Errorf("ran for %v s, at the pod %v s, expected %v s", d.RunningSeconds, pod.Seconds, want)
		}
		if got := d.LastEnd.Sub(begin); got < 29*time.Second || got > 31*time.Second {
			t.Errorf("last end after %v", got)
		}
		if got := g.invocations(fn.Ref); got != 5 {
			t.Errorf("%d invocations", got)
		}
		if got := g.invocations(function.Ref{Name: "b", Namespace: "ns"}); got != 0 {
			t.Errorf("%d invocations of what nobody called", got)
		}
	})
}

// What a pod refused is not demand of its own, and pods that are gone are not
// told of.
func TestRefusedTriesAreCountedApart(t *testing.T) {
	g, f, _ := setup(t, nil)
	e := put(f, describe("a", 2, 2), started(2, 0))
	l := g.lane(e)
	must(t, l).done(refused)
	must(t, l).done(took)
	d := l.demand(time.Now())
	if d.Pods["a-0"].Refused != 1 || d.Pods["a-0"].Calls != 0 || d.Pods["a-1"].Calls != 1 {
		t.Errorf("%+v", d.Pods)
	}
	put(f, describe("a", 1, 1), started(2, 0))
	if d := l.demand(time.Now()); len(d.Pods) != 1 || d.Pods["a-0"].Refused != 1 {
		t.Errorf("after a pod went: %+v", d.Pods)
	}
}

func TestReportGoesOverTheWire(t *testing.T) {
	g, f, _ := setup(t, nil)
	must(t, g.lane(put(f, describe("a", 1, 1), started(2, 0))))
	put(f, describe("never-called", 1, 1), started(2, 0))
	w := httptest.NewRecorder()
	g.DemandHandler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	var got fleet.Report
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := g.Report()
	if got.Gateway != want.Gateway || got.Gateway == "" || len(got.Functions) != 1 {
		t.Fatalf("%+v", got)
	}
	a, b := got.Functions[0], want.Functions[0]
	if !a.LastStart.Equal(b.LastStart) || a.Calls != 1 || a.Running != 1 || a.Pods["a-0"].UID != "a-0" {
		t.Errorf("%+v became %+v", b, a)
	}
	if other, _, _ := setup(t, nil); reflect.DeepEqual(other.id, g.id) {
		t.Error("two starts have one id")
	}
	w = httptest.NewRecorder()
	g.DemandHandler().ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	if w.Code != 405 || w.Header().Get("Allow") == "" {
		t.Errorf("POST: %d", w.Code)
	}
}

// Who has a report is told what may have changed since, and by a gateway that
// does not know that report everything.
func TestReportOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, _ := setup(t, nil)
		call := func(name string) {
			t.Helper()
			l := g.lane(f.Get(function.Ref{Name: name, Namespace: "ns"}))
			must(t, l).done(took)
			l.exit(200, 0)
		}
		ask := func(query string) (r fleet.Report, names string) {
			t.Helper()
			w := httptest.NewRecorder()
			g.DemandHandler().ServeHTTP(w, httptest.NewRequest("GET", "/demand?"+query, nil))
			if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, d := range r.Functions {
				all = append(all, d.Function[:1])
			}
			slices.Sort(all)
			return r, strings.Join(all, "")
		}
		since := func(r fleet.Report) string { return fmt.Sprintf("since=%d&gateway=%s", r.Mark, r.Gateway) }
		expect := func(what, query, want string, since int64) fleet.Report {
			t.Helper()
			r, names := ask(query)
			if names != want || r.Since != since || r.Mark == 0 || r.Gateway != g.id {
				t.Errorf("%s: %q since %d, mark %d; expected %q since %d", what, names, r.Since, r.Mark, want, since)
			}
			return r
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			put(f, describe(name, 1, 1), started(2, 0))
			call(name)
		}
		f.Put(describe("e", 0, 0))
		first := expect("everything", "", "abcd", 0)
		expect("a moment later", since(first), "abcd", first.Mark) // it may have been on its way
		time.Sleep(2 * markOverlap)
		second := expect("nothing since", since(first), "abcd", first.Mark)
		expect("nothing for long", since(second), "", second.Mark)
		time.Sleep(time.Minute)
		call("b")
		open := must(t, g.lane(f.Get(function.Ref{Name: "c", Namespace: "ns"})))
		g.wake(f.Get(function.Ref{Name: "e", Namespace: "ns"}))
		third := expect("called, running, woken", since(second), "bce", second.Mark)
		time.Sleep(time.Hour)
		fourth := expect("running still", since(third), "bce", third.Mark)
		expect("only that", since(fourth), "c", fourth.Mark)
		open.done(took)
		time.Sleep(time.Second)
		expect("it has ended", since(fourth), "c", fourth.Mark)
		time.Sleep(time.Hour)
		for what, query := range map[string]string{
			"of another start": fmt.Sprintf("since=%d&gateway=other", fourth.Mark),
			"of nobody":        fmt.Sprintf("since=%d", fourth.Mark),
			"of the future":    fmt.Sprintf("since=%d&gateway=%s", int64(1)<<62, g.id),
			"negative":         "since=-1&gateway=" + g.id,
			"no number":        "since=x&gateway=" + g.id,
		} {
			expect(what, query, "abcde", 0)
		}
	})
}

// Who asks for changes only hears that a function is gone with what it ran, and
// takes nothing of it for what the next one of its name carries.
func TestReportOfAFunctionThatIsGone(t *testing.T) {
	for _, again := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g, f, _ := setup(t, nil)
			fn := describe("a", 1, 1)
			l := g.lane(put(f, fn, started(2, 0)))
			open := must(t, l)
			first := g.report(0)
			if d := first.Functions[0]; d.Running != 1 {
				t.Fatalf("the call does not run: %+v", d)
			}
			time.Sleep(time.Second)
			f.Delete(fn.Ref)
			open.done(took)
			l.exit(200, 0)
			g.drop(l)
			if again {
				must(t, g.lane(put(f, fn, started(2, 0))))
			}
			time.Sleep(2 * markOverlap)
			all := g.report(first.Mark).Functions
			if len(all) == 0 {
				t.Fatal("nothing is said of it")
			}
			d := all[len(all)-1]
			if d.Function != "a.ns" || (d.Running == 1) != again || d.LastEnd != (time.Time{}) {
				t.Errorf("said last: %+v", d)
			}
			time.Sleep(2 * droppedKeep)
			mark := g.report(0).Mark
			time.Sleep(time.Second)
			if all := g.report(mark).Functions; len(all) > 0 && !again {
				t.Errorf("said for ever: %+v", all)
			}
			other := describe("b", 1, 1)
			next := g.lane(put(f, other, started(2, 0)))
			f.Delete(other.Ref)
			g.drop(next)
			if len(g.dropped) != 1 {
				t.Errorf("%d are remembered", len(g.dropped))
			}
		})
	}
}

// thousands are 10,000 functions that were called, with a pod each.
func thousands(t testing.TB) *Gateway {
	g, f, _ := setup(t, nil)
	for i := range 10_000 {
		l := g.lane(put(f, describe(fmt.Sprintf("f%d", i), 1, 1), started(10, 0)))
		c := &caller{l: l}
		if err := c.get(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.done(took)
		l.exit(200, time.Millisecond)
	}
	return g
}

func BenchmarkReport(b *testing.B) {
	g := thousands(b)
	for name, report := range map[string]func(){
		"value": func() { g.Report() },
		"JSON": func() {
			g.DemandHandler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				report()
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkWake is from the first call of a function that sleeps, among 10,000
// of which others are called and change, to the asking of its provider.
func BenchmarkWake(b *testing.B) {
	for _, functions := range []int{1, 10_000} {
		b.Run(fmt.Sprint(functions), func(b *testing.B) {
			g, f, p := setup(b, nil)
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			go func() { _ = g.Run(ctx) }()
			for i := range functions {
				put(f, describe(fmt.Sprintf("f%d", i), 1, 1), started(10, 0))
			}
			asked := make(chan time.Time, 1)
			p.wake = func(_ context.Context, ref function.Ref, n int) error {
				asked <- time.Now()
				put(f, describe(ref.Name, 1, 1), started(10, 0))
				return nil
			}
			var waited time.Duration
			for i := range b.N {
				name := fmt.Sprintf("f%d", i%functions)
				l := g.lane(f.Get(function.Ref{Name: name, Namespace: "ns"}))
				for settled := false; !settled; { // the wake before
					l.mu.Lock()
					settled = !l.waking.busy
					l.mu.Unlock()
				}
				f.Put(describe(name, 0, 0))
				begin := time.Now()
				if err := (&caller{l: l}).call(ctx); err != nil {
					b.Fatal(err)
				}
				waited += (<-asked).Sub(begin)
			}
			b.ReportMetric(float64(waited.Nanoseconds())/float64(b.N), "wake-ns/op")
		})
	}
}
