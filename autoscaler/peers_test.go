package autoscaler

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
	broken.Store(true)
	expect("unreadable", []string{address}, 7, false)
	expect("still", []string{address}, 7, false)
	expect("never seen", []string{address, "127.0.0.1:1"}, 7, false)
	expect("gone", nil, 0, true)
	expect("back, unreadable", []string{address}, 0, false)
	broken.Store(false)
	expect("back", []string{address}, 7, true)
}
