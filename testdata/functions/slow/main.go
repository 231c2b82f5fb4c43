// A sample function: an HTTP server on $PORT that takes its time, 500 ms or
// what ?ms= asks for, at most a minute.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

const longest = time.Minute

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		pause := 500 * time.Millisecond
		if ms, err := strconv.ParseUint(r.FormValue("ms"), 10, 32); err == nil {
			pause = min(time.Duration(ms)*time.Millisecond, longest)
		}
		select {
		case <-time.After(pause):
			fmt.Fprintf(w, "%v later, from process %d\n", pause, os.Getpid())
		case <-r.Context().Done():
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
