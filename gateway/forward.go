package gateway

import (
	"net/http"

	"github.com/weir-run/weir/fleet"
)

// serve is one call of a function from its first byte to its last. path is
// what goes to the function: the raw path and query.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, e *fleet.Entry, path string) {
	http.Error(w, "not built yet", http.StatusServiceUnavailable)
}
