// Package function is yours: Handle is called for each request.
package function

import (
	"fmt"
	"io"
	"net/http"
)

// Handle answers one request. It runs at the same time as others.
func Handle(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		fmt.Fprintf(w, "Hello from %s\n", r.URL.Path)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	w.Write(body)
}
