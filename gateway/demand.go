package gateway

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// Report is what the gateway carries at this moment.
func (g *Gateway) Report() fleet.Report { return fleet.Report{Gateway: g.id, Now: time.Now()} }

// DemandHandler answers Report as JSON, for the weir that decides.
func (g *Gateway) DemandHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(g.Report())
	})
}

// invocations counts the calls that came for a function.
func (g *Gateway) invocations(ref function.Ref) uint64 { return 0 }
