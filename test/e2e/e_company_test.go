package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A function is woken together with what it depends on, and its callers wait
// until that serves too.
func TestDependsOn(t *testing.T) {
	c := needNode(t)
	r := hardened(t)
	store := zero("store", nil)
	store.Image, store.Env = "fibonacci", map[string]string{"START_AFTER": "3s"}
	shop := zero("shop", map[string]string{"weir/depends-on": "store"})
	slow, quick := r.deploy(t, store), r.deploy(t, shop)
	slow.asleep(t)
	quick.asleep(t)
	mark := c.mark(t)
	resp, text := ask(t, http.MethodGet, r.weirs(t, 2)[0].url+quick.path(), nil)
	answered := time.Now()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, text)
	}
	// What it depends on has been up for as long as it says itself.
	resp, text = ask(t, http.MethodGet, r.weirs(t, 2)[0].url+slow.path()+"/hello/shop", nil)
	listens, err := time.Parse(time.RFC3339Nano, resp.Header.Get("X-Started"))
	if err != nil {
		t.Fatalf("%s %s: %v", resp.Status, text, err)
	}
	if listens.After(answered) {
		t.Errorf("shop answered at %v, and store, which it depends on, serves only since %v", answered, listens)
	}
	started, err := time.Parse(time.RFC3339Nano, askHeader(t, r.weirs(t, 2)[0].url+quick.path(), "X-Started"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("shop's handler since %v, store's since %v, shop's answer at %v", started, listens, answered)
	quick.wokenOnce(t, mark)
	slow.wokenOnce(t, mark)
}

func askHeader(t *testing.T, url, name string) string {
	t.Helper()
	resp, text := ask(t, http.MethodGet, url, nil)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, text)
	}
	return resp.Header.Get(name)
}

// A function with start-with-any comes up with any function's first call, and
// nobody waits for it.
func TestStartWithAny(t *testing.T) {
	c := needNode(t)
	r := hardened(t)
	eager := r.deploy(t, zero("eager", map[string]string{"weir/start-with-any": "true"}))
	lazy := r.deploy(t, zero("lazy", nil))
	called := r.deploy(t, zero("called", nil))
	for _, f := range []*function{eager, lazy, called} {
		f.scale(t, 0) // what another test has called may have woken it
		f.asleep(t)
	}
	mark := c.mark(t)
	if resp, text := ask(t, http.MethodGet, r.weirs(t, 2)[1].url+called.path(), nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, text)
	}
	eager.up(t, 1)
	eager.wokenOnce(t, mark)
	called.wokenOnce(t, mark)
	if all := lazy.writes(t, mark, 0); len(all) != 0 {
		t.Errorf("lazy, which nobody called: %v", all)
	}
}

// A wake-up time of a schedule, on the clock of another time zone, wakes the
// function then and not before.
func TestScheduleWakes(t *testing.T) {
	c := needNode(t)
	r := hardened(t)
	const zone = "Asia/Kathmandu" // a quarter of an hour off all the others
	there, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	const ahead = 45 * time.Second // until weir has read it, on a slow machine
	at := time.Now().In(there).Add(ahead).Truncate(time.Minute).Add(time.Minute)
	mark := c.mark(t)
	f := r.deploy(t, zero("early", map[string]string{
		"weir/schedule": fmt.Sprintf(`{"TimeZoneID":%q,"Default":{"WakeUp":[%q]}}`, zone, at.Format("15:04"))}))
	if n, err := f.replicas(); time.Now().Before(at) && (n != 0 || err != nil) {
		t.Errorf("%d replicas before the time, %v", n, err)
	}
	t.Parallel() // the rest is waiting
	f.up(t, 1)
	f.wokenOnce(t, mark)
	for _, w := range f.writes(t, mark, 0) {
		if late := w.RequestReceivedTimestamp.Sub(at); w.byWeir() && w.Old == 0 {
			measured.add("wake-up time of a schedule → Scale write", ms(late), "not before")
			if late < 0 {
				t.Errorf("woken %v before %v: %v", -late, at, w)
			}
		}
	}
	for _, e := range f.explainedWrites(t, mark, 0) {
		if e.Reason != "schedule" {
			t.Errorf("%v", e)
		}
	}
}

// A value that cannot be used is told by an Event, a line in the log and the
// API, each with the object, the key and the value; the function works with
// the default, and the others are none the worse.
func TestBadValue(t *testing.T) {
	r := hardened(t)
	bad := map[string]string{"weir/max": "plenty", "weir/target": "-3", "weir/colour": "blue"}
	f := r.deploy(t, zero("odd", bad))
	f.asleep(t)
	names := func(text, key, value string) error {
		for _, want := range []string{"odd", key, value} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %q in %q", want, text)
			}
		}
		return nil
	}
	for key, value := range bad {
		eventually(t, "an Event names "+key, func() error {
			err := errors.New("no Event")
			for _, e := range f.events(t) {
				if e.Type != "Warning" || !strings.Contains(e.Message, key) {
					continue
				}
				if err = names(e.InvolvedObject.Kind+" "+e.InvolvedObject.Name+": "+e.Message, key, value); err == nil {
					return nil
				}
			}
			return err
		})
		eventually(t, "a line of the log names "+key, func() error {
			err := errors.New("no line")
			for _, line := range r.logs(t) {
				if !strings.Contains(line, "level=WARN") || !strings.Contains(line, key) {
					continue
				}
				if err = names(line, key, value); err == nil {
					return nil
				}
			}
			return err
		})
	}
	got := r.explain(t, "odd")
	if len(got.Faults) != len(bad) || got.Autoscaling.Max != 20 {
		t.Errorf("%+v: want %d faults, and the default max", got, len(bad))
	}
	for _, fault := range got.Faults {
		if bad[fault.Key] != fault.Value || fault.Expected == "" || !strings.Contains(fault.Object, "odd") {
			t.Errorf("fault %+v", fault)
		}
	}
	if resp, text := ask(t, http.MethodGet, r.weirs(t, 2)[0].url+f.path(), nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, text)
	}
}
