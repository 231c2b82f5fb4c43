package autoscaler

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
)

// A gateway that cannot be read keeps its last report and makes the view
// incomplete; one that is no longer listed is forgotten.
func TestPeers(t *testing.T) {
	var broken atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != contract.DemandPath || broken.Load() {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(fleet.Report{Gateway: "a", Functions: []fleet.Demand{{Function: "f.ns", Running: 7}}})
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	p := newPeers()
	defer p.close()
	expect := func(what string, addresses []string, running int, whole bool) {
		t.Helper()
		reports, complete, err := p.read(t.Context(), addresses)
		got := 0
		for _, r := range reports {
			got += r.Functions[0].Running
		}
		if got != running || complete != whole || (err == nil) != whole {
			t.Errorf("%s: running %d, complete %v, %v; expected %d, %v", what, got, complete, err, running, whole)
		}
	}
	expect("alone", nil, 0, true)
	expect("one", []string{address}, 7, true)
	expect("one, named twice", []string{address, address}, 7, true)
	broken.Store(true)
	expect("unreadable", []string{address}, 7, false)
	expect("still", []string{address}, 7, false)
	expect("never seen", []string{address, "127.0.0.1:1"}, 7, false)
	expect("gone", nil, 0, true)
	expect("back, unreadable", []string{address}, 0, false)
	broken.Store(false)
	expect("back", []string{address}, 7, true)
}

// Of a gateway that tells changes alone all is known that it ever told, until
// it is another one; what was handed out stays as it was.
func TestPeersTellChanges(t *testing.T) {
	var next atomic.Pointer[fleet.Report]
	var asked atomic.Pointer[string]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(&r.URL.RawQuery)
		_ = json.NewEncoder(w).Encode(next.Load())
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	p := newPeers()
	defer p.close()
	says := func(gateway string, mark, since int64, running ...fleet.Demand) fleet.Report {
		return fleet.Report{Gateway: gateway, Mark: mark, Since: since, Functions: running}
	}
	of := func(name string, running int) fleet.Demand { return fleet.Demand{Function: name, Running: running} }
	var before []fleet.Report
	expect := func(what string, answer fleet.Report, query string, whole bool, want ...fleet.Demand) {
		t.Helper()
		next.Store(&answer)
		kept := slices.Clone(before)
		for i := range kept {
			kept[i].Functions = slices.Clone(kept[i].Functions)
		}
		reports, complete, err := p.read(t.Context(), []string{address})
		if complete != whole || (err == nil) != whole || len(reports) != 1 || !reflect.DeepEqual(reports[0].Functions, want) {
			t.Errorf("%s: %+v, complete %v, %v; expected %+v, %v", what, reports, complete, err, want, whole)
		}
		if *asked.Load() != query {
			t.Errorf("%s: asked with %q, expected %q", what, *asked.Load(), query)
		}
		if !reflect.DeepEqual(kept, before) {
			t.Errorf("%s: an earlier report was changed from %+v to %+v", what, kept, before)
		}
		before = append(before, reports...)
	}
	expect("at first", says("a", 5, 0, of("f", 7), of("g", 1)), "", true, of("f", 7), of("g", 1))
	expect("changes", says("a", 9, 5, of("g", 2), of("h", 3)), "gateway=a&since=5", true, of("f", 7), of("g", 2), of("h", 3))
	expect("none", says("a", 10, 9), "gateway=a&since=9", true, of("f", 7), of("g", 2), of("h", 3))
	expect("since what was not asked", says("a", 11, 9, of("h", 4)), "gateway=a&since=10", false, of("f", 7), of("g", 2), of("h", 3))
	expect("not its own", says("b", 11, 10, of("h", 4)), "gateway=a&since=10", false, of("f", 7), of("g", 2), of("h", 3))
	expect("read again", says("a", 12, 10, of("h", 5)), "gateway=a&since=10", true, of("f", 7), of("g", 2), of("h", 5))
	expect("started anew", says("b", 3, 0, of("g", 1)), "gateway=a&since=12", true, of("g", 1))
	now := p.last[address]
	now.whole = now.whole.Add(-wholeEvery)
	p.last[address] = now
	expect("a minute later", says("b", 4, 0, of("f", 1)), "", true, of("f", 1))
	expect("one that has no marks", says("c", 0, 0, of("f", 2)), "gateway=b&since=4", true, of("f", 2))
	expect("one that has none still", says("c", 0, 0, of("f", 3)), "", true, of("f", 3))
}
