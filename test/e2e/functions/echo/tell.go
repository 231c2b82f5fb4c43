package main

import (
	"log"
	"net/http"
	"time"
)

var teller = &http.Client{Timeout: 10 * time.Second}

// tell lets somebody know where a request is, and returns what that says: 599
// if nothing.
func tell(url string) (status int) {
	resp, err := teller.Post(url, "", nil)
	if err != nil {
		log.Print(err)
		return 599
	}
	resp.Body.Close()
	return resp.StatusCode
}
