// Command hello is the pod of this folder's test: it answers, says what it is
// told on its standard output, and takes memory when asked.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
)

var taken [][]byte

func main() {
	if len(os.Args) > 1 {
		fmt.Println(os.Args[1])
		return
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		fmt.Fprintln(w, "hello from", host)
	})
	http.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		mib, _ := strconv.Atoi(r.FormValue("mib"))
		for range mib {
			page := make([]byte, 1<<20)
			for i := range page {
				page[i] = 1
			}
			taken = append(taken, page)
		}
		fmt.Fprintln(w, "took", mib, "MiB")
	})
	fmt.Println("listening")
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil))
	os.Exit(1)
}
