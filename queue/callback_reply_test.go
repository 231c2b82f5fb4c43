package queue

import (
	"bytes"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

func aReply() *reply {
	return &reply{
		Call:     ID{Nonce: Nonce{1, 2, 3}, Seq: 77},
		CallID:   "trace-1",
		Function: function.Ref{Name: "figlet", Namespace: "fn"},
		URL:      "https://receiver.example/hook?x=1",
		State:    Failed, Reason: "it answered 418", Status: 418,
		Header: http.Header{"Content-Type": {"text/plain"}, "X-Many": {"b", "a", "", "\xe9t\xe9"}},
		Body:   []byte("a \x00 body"), Size: 9, HeaderCut: true,
		Took: 1234567 * time.Microsecond, Ended: time.Unix(1763700000, 123).UTC(),
		Attempts: 3, MaxAttempts: 10, Depth: 2,
	}
}

func TestReplyIsReadAsItWasWritten(t *testing.T) {
	for name, r := range map[string]*reply{
		"full":  aReply(),
		"least": {State: Dead, Header: http.Header{}, Ended: time.Unix(0, 0).UTC()},
		"past":  {State: Succeeded, Header: http.Header{}, Ended: time.Unix(-5, 1).UTC()},
	} {
		data := r.encode()
		got, err := decodeReply(data)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: %+v is read as %+v, %v", name, r, got, err)
		}
	}
}

func TestReplyIsRefusedUnlessItIsWhole(t *testing.T) {
	data := aReply().encode()
	for n := range data {
		if got, err := decodeReply(data[:n]); !errors.Is(err, errReply) {
			t.Fatalf("the first %d of %d bytes are read as %+v, %v", n, len(data), got, err)
		}
	}
	if got, err := decodeReply(append(slices.Clone(data), 0)); !errors.Is(err, errReply) {
		t.Errorf("with a byte more it is read as %+v, %v", got, err)
	}
	newer := slices.Clone(data)
	newer[0] = 9
	if _, err := decodeReply(newer); !errors.Is(err, errReply) || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("of another version: %v", err)
	}
	for why, change := range map[string]func(r *reply){
		"a state that is not final": func(r *reply) { r.State = Running },
		"a body beyond its size":    func(r *reply) { r.Size = 3 },
		"a long text":               func(r *reply) { r.Reason = strings.Repeat("x", maxReplyText+1) },
		"a status of four digits":   func(r *reply) { r.Status = 1000 },
		"a header without a name":   func(r *reply) { r.Header = http.Header{"": {"x"}} },
	} {
		r := aReply()
		change(r)
		if got, err := decodeReply(r.encode()); !errors.Is(err, errReply) {
			t.Errorf("%s: read as %+v, %v", why, got, err)
		}
	}
}

func TestReplyFitsTheStore(t *testing.T) {
	r := aReply()
	r.Body, r.Size = bytes.Repeat([]byte("x"), 10_000), 10_000
	whole := len(r.encode())
	for _, size := range []int{whole, whole - 1, 5_000, 500, 200} {
		r := aReply()
		r.Body, r.Size = bytes.Repeat([]byte("x"), 10_000), 10_000
		r.HeaderCut = false
		data := r.encodeWithin(size)
		got, err := decodeReply(data)
		if err != nil || len(data) > size {
			t.Errorf("within %d: %d bytes, %v", size, len(data), err)
			continue
		}
		if cut := len(got.Body) < 10_000; cut != (size < whole) || got.Size != 10_000 {
			t.Errorf("within %d: %d of %d bytes of the body", size, len(got.Body), got.Size)
		}
		if size >= 500 && (len(got.Header) != 2 || got.HeaderCut || len(data) < size-3) {
			t.Errorf("within %d: %d bytes, cut %t, with %v", size, len(data), got.HeaderCut, got.Header)
		}
	}
}

func TestReplyHeader(t *testing.T) {
	h := http.Header{"Content-Type": {"a/b"}, "Connection": {"keep-alive, X-Hop"}, "X-Hop": {"1"}, "Keep-Alive": {"5"},
		"Content-Length": {"3"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"X"}, "Upgrade": {"h2c"}, "Te": {"x"},
		"Set-Cookie": {"a=b", "c=d"}}
	got, cut := replyHeader(h)
	if want := (http.Header{"Content-Type": {"a/b"}, "Set-Cookie": {"a=b", "c=d"}}); cut || !reflect.DeepEqual(got, want) {
		t.Errorf("kept %v, cut %t", got, cut)
	}
	h = http.Header{"Content-Type": {"a/b"}, "X-Long": {strings.Repeat("x", maxReplyHeader)}, "X-Short": {"y"}}
	got, cut = replyHeader(h)
	if want := (http.Header{"Content-Type": {"a/b"}, "X-Short": {"y"}}); !cut || !reflect.DeepEqual(got, want) {
		t.Errorf("of a long head: kept %v, cut %t", got, cut)
	}
	h = http.Header{"X-Many": make([]string, maxReplyLines)}
	for i := range maxReplyLines {
		h["X-"+strconv.Itoa(i)] = []string{""}
	}
	if got, cut = replyHeader(h); !cut || len(got) != maxReplyLines {
		t.Errorf("of many lines: kept %d, cut %t", len(got), cut)
	}
	for name, r := range map[string]*reply{"long": {State: Dead, Header: got, Ended: time.Unix(1, 0)}} {
		if _, err := decodeReply(r.encode()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add(aReply().encode())
	f.Add((&reply{State: Dead, Ended: time.Unix(0, 0)}).encode())
	f.Add([]byte{replyVersion})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeReply(data)
		if err != nil {
			if !errors.Is(err, errReply) || r != nil {
				t.Errorf("%v, %v", r, err)
			}
			return
		}
		if again := r.encode(); !bytes.Equal(again, data) {
			t.Errorf("%x is read as %+v, which is %x", data, r, again)
		}
	})
}
