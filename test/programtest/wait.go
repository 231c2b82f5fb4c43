package programtest

import (
	"net/http"
	"os"
	"testing"
	"time"
)

// Patience bounds every wait for a condition. It is long because the machine
// may be busy with other packages; no test passes by waiting for it. PATIENCE
// shortens it, to watch tests fail.
var Patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("PATIENCE")); err == nil {
		return d
	}
	return 90 * time.Second
}()

// Eventually waits until ok returns true.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

// client keeps no connection: the programs count them, and their tests what they count.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

// answers says whether a GET is answered 200.
func answers(url string) bool {
	response, err := client.Get(url)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}
