// A sample function: an HTTP server on $PORT that greets, and says which
// process it is.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		name := r.FormValue("name")
		if name == "" {
			name = "world"
		}
		fmt.Fprintf(w, "Hello, %.100s, from process %d\n", name, os.Getpid())
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
