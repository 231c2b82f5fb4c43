package queue

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// messages are all there is to tell of a call, and as little as there can be.
func messages() map[string]*Message {
	ref := function.Ref{Name: "resize", Namespace: "shop"}
	everything := make([]byte, 256)
	for i := range everything {
		everything[i] = byte(i)
	}
	return map[string]*Message{
		"least": {Function: ref, Header: http.Header{}},
		"most": {
			Function: ref, Method: "PROPFIND", Path: "/a%2Fb//c/../%zz?x=1&x=2;y#z", Host: "shop.example:8443",
			Header: http.Header{
				"X-Many":       {"b", "a", "", "b"},
				"x-lower":      {"as it was sent"},
				"X-Bytes":      {"\xff\x80\t\"é"},
				"X-None":       nil,
				"":             {""},
				"Traceparent":  {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
				"Content-Type": {"application/octet-stream"},
			},
			Body: everything, CallID: "order-17.4", Callback: "https://shop.example/done?id=1",
			Accepted: time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC),
			Nonce:    Nonce{0: 1, 15: 255}, Keyed: true, Resent: ID{Nonce{3: 9}, 1 << 60},
		},
		"resent from the first place": {Function: ref, Header: http.Header{}, Resent: ID{Nonce{1: 1}, 0}, Accepted: time.Unix(-1, 999999999).UTC()},
		"keyed":                       {Function: ref, Header: http.Header{}, Keyed: true, Accepted: time.Unix(math.MaxInt64/2, 0).UTC()},
		"many names":                  {Function: ref, Header: manyHeaders(3 * fewNames), Method: "POST", Body: []byte{0}},
	}
}

func manyHeaders(n int) http.Header {
	h := http.Header{}
	for i := range n {
		h.Set(fmt.Sprintf("X-%d", i), strings.Repeat("v", i))
	}
	return h
}

// Whatever was sent arrives as it was sent.
func TestMessageKeepsEverything(t *testing.T) {
	for name, m := range messages() {
		data := m.Encode()
		got, err := Decode(data)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", name, err, got, m)
			continue
		}
		if again := got.Encode(); !bytes.Equal(again, data) {
			t.Errorf("%s: stored anew it is another one", name)
		}
	}
	// A local time is the same moment, and a header that is nil is none.
	at := time.Date(2026, 11, 21, 12, 0, 0, 1, time.FixedZone("here", 7200))
	m := &Message{Function: function.Ref{Name: "f", Namespace: "ns"}, Accepted: at}
	got, err := Decode(m.Encode())
	if err != nil || !got.Accepted.Equal(at) || got.Header == nil || got.Body != nil {
		t.Errorf("%v: %+v", err, got)
	}
}

// A field that is new must be stored too: here it is missed.
func TestMessagesHaveEveryField(t *testing.T) {
	m := reflect.ValueOf(*messages()["most"])
	for i := range m.NumField() {
		if m.Field(i).IsZero() {
			t.Errorf("no test stores %s", m.Type().Field(i).Name)
		}
	}
}

// What Decode gives away does not reach into what follows in memory.
func TestMessageBodyIsClipped(t *testing.T) {
	m := messages()["most"]
	data := append(m.Encode(), "next"...)
	got, err := Decode(data[:len(data)-len("next")])
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got.Body, "grown"...)
	if !bytes.HasSuffix(data, []byte("next")) {
		t.Error("the body grew over what follows it")
	}
}

// A message has one form, and one that is cut off, or longer, has none.
func TestDecodeIsStrict(t *testing.T) {
	for name, m := range messages() {
		data := m.Encode()
		for n := range len(data) {
			if got, err := Decode(data[:n]); err == nil {
				t.Fatalf("%s: %d of %d bytes are read as %+v", name, n, len(data), got)
			}
		}
		if got, err := Decode(append(data[:len(data):len(data)], 0)); err == nil {
			t.Errorf("%s: with a byte more it is read as %+v", name, got)
		}
	}
}

// stored is a message by hand: a head that ends with parts, and a body.
func stored(body string, parts ...string) []byte {
	head := strings.Join(parts, "")
	data := binary.AppendUvarint([]byte{messageVersion}, uint64(len(head)))
	return append(binary.AppendUvarint(data, uint64(len(body))), head+body...)
}

func TestDecodeSaysWhatIsWrong(t *testing.T) {
	const texts, at = "\x02ns\x01f\x03GET\x01/\x01h\x00\x00", "\x02\x05"
	nonce := strings.Repeat("n", 16)
	good := stored("body", texts, at, nonce, "\x00", "\x01\x01A\x02\x01x\x00")
	if m, err := Decode(good); err != nil || m.Header["A"][0] != "x" || m.Header["A"][1] != "" || string(m.Body) != "body" || m.Accepted.UnixNano() != 1e9+5 {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, row := range []struct {
		data []byte
		want string
	}{
		{nil, "empty"},
		{[]byte{0, 0, 0}, "version 0, of which this weir knows 1 only"},
		{[]byte{200}, "version 200, of which this weir knows 1 only"},
		{[]byte("{\"json\":true}"), "version 123"},
		{[]byte{messageVersion}, "length of the head is no number, or cut off"},
		{[]byte{messageVersion, 0}, "length of the body is no number, or cut off"},
		{[]byte{messageVersion, 0, 0}, "length of the namespace is no number"},
		{[]byte{messageVersion, 0x80, 0, 0}, "length of the head is no number"},
		{append([]byte{messageVersion}, bytes.Repeat([]byte{0xff}, 20)...), "length of the head is no number"},
		{good[:len(good)-1], "of a head of"},
		{append([]byte{messageVersion, 1}, binary.AppendUvarint(nil, math.MaxUint64)...), "0 bytes, of a head of 1 and a body of 18446744073709551615"},
		{stored("", "\x7fns"), "length of the namespace is 127, with 2 bytes left"},
		{stored("", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ns"), "with 2 bytes left"},
		{stored("", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02ns"), "length of the namespace is no number"},
		{stored("", texts, "\x02\x80\x94\xeb\xdc\x03"), "1000000000 nanoseconds"},
		{stored("", texts, at, "short"), "the nonce is cut off"},
		{stored("", texts, at, nonce, "\x04", "\x00"), "sum of marks is 4, of at most 3"},
		{stored("", texts, at, nonce, "\x02", strings.Repeat("\x00", 16), "\x00\x00"), "the resent call has no ID"},
		{stored("", texts, at, nonce, "\x02", "short"), "nonce of the resent call is cut off"},
		{stored("", texts, at, nonce, "\x00", "\x02\x01A\x00\x01A\x00"), "not in rising order"},
		{stored("", texts, at, nonce, "\x00", "\x02\x01B\x00\x01A\x00"), "not in rising order"},
		{stored("", texts, at, nonce, "\x00", "\x02\x01A\x00"), "length of the name of a header is no number"},
		{stored("", texts, at, nonce, "\x00", "\x01\x01A\x03\x00\x00"), "the number of a header's values is 3, with 2 bytes left"},
		{stored("", texts, at, nonce, "\x00", "\x01\x01A\x01\x09x"), "value of a header is 9, with 1 bytes left"},
		{stored("", texts, at, nonce, "\x00", "\x00", "more"), "4 bytes after the header"},
		{stored("", "\x02NS", texts[3:], at, nonce, "\x00", "\x00"), "not a function name"},
		{stored("", "\x03a.b", texts[3:], at, nonce, "\x00", "\x00"), "not a function name"},
		{stored("", "\x00", texts[3:], at, nonce, "\x00", "\x00"), "not a function name"},
	} {
		m, err := Decode(row.data)
		if err == nil || m != nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "message: ") {
			t.Errorf("%q: %+v, %v; want %q", row.data, m, err, row.want)
		}
	}
}

// Lengths and counts that lie cost nothing.
func TestDecodeIsBounded(t *testing.T) {
	filler := strings.Repeat("\x00", 1<<20)
	head := "\x02ns\x01f\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("n", 16) + "\x00"
	count := string(binary.AppendUvarint(nil, 1<<19))
	for name, data := range map[string][]byte{
		"names":  stored("", head, count, filler),
		"values": stored("", head, "\x01\x01A", count, filler),
	} {
		got := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(data); err == nil {
					b.Fatal("decoded")
				}
			}
		})
		if most := int64(20 * len(data)); got.AllocedBytesPerOp() > most {
			t.Errorf("%s: %d bytes are allocated for %d", name, got.AllocedBytesPerOp(), len(data))
		}
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// TestMessageForms holds the forms of former releases: what they stored must be
// read by every later one.
func TestMessageForms(t *testing.T) {
	for name, m := range messages() {
		path := filepath.Join("testdata", fmt.Sprintf("message-%d-%s", messageVersion, strings.ReplaceAll(name, " ", "-")))
		if *update {
			if err := os.WriteFile(path, m.Encode(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(data); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", path, err, got, m)
		}
	}
}

// FuzzDecode: bytes that are a message are the only ones of it.
func FuzzDecode(f *testing.F) {
	for _, m := range messages() {
		f.Add(m.Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			if m != nil || len(err.Error()) > 1024 {
				t.Errorf("%+v, %.2000s", m, err)
			}
			return
		}
		if again := m.Encode(); !bytes.Equal(again, data) {
			t.Errorf("%q is stored anew as %q", data, again)
		}
	})
}

// FuzzMessage: a message is what was stored, whatever it is made of.
func FuzzMessage(f *testing.F) {
	f.Add("GET", "/x?y", "h", "id", "http://c", "A", "1", "B", "2", []byte("body"), int64(1), int64(2), uint64(3), true)
	f.Add("", "", "", "", "", "", "", "", "", []byte(nil), int64(math.MinInt64), int64(-1), uint64(math.MaxUint64), false)
	f.Fuzz(func(t *testing.T, method, path, host, callID, callback, name1, value1, name2, value2 string, body []byte, seconds, nanoseconds int64, seq uint64, key bool) {
		m := &Message{
			Function: function.Ref{Name: "f", Namespace: "ns"}, Method: method, Path: path, Host: host,
			CallID: callID, Callback: callback, Body: body, Accepted: time.Unix(seconds, nanoseconds).UTC(),
			Header: http.Header{name1: {value1, value2}}, Keyed: key, Resent: ID{Seq: seq},
		}
		m.Header[name2] = append(m.Header[name2], value2, value1)
		binary.BigEndian.PutUint64(m.Nonce[4:], seq)
		got, err := Decode(m.Encode())
		if len(body) == 0 {
			m.Body = nil
		}
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%v\n got %+v\nwant %+v", err, got, m)
		}
	})
}

// typical is a call of 1 KiB with the header of a browser.
func typical() *Message {
	m := &Message{
		Function: function.Ref{Name: "resize", Namespace: "openfaas-fn"}, Method: "POST", Path: "/images/17?size=200", Host: "gateway.example:8080",
		Header: http.Header{}, Body: bytes.Repeat([]byte("x"), 1024), Accepted: time.Now(), CallID: "9b2f7c1e-4f0d-4a52-9f0e-3a5d1c2b7e11",
		Callback: "http://receiver.shop.svc:8080/done",
	}
	for i, name := range []string{"Accept", "Accept-Encoding", "Accept-Language", "Content-Length", "Content-Type", "Cookie", "Origin", "Referer", "Traceparent", "User-Agent"} {
		m.Header[name] = []string{strings.Repeat("v", 10*i)}
	}
	return m
}

// TestMessageAllocations: one for the bytes, and one for each thing that is
// handed out.
func TestMessageAllocations(t *testing.T) {
	m := typical()
	if got := testing.AllocsPerRun(100, func() { m.Encode() }); got > 1 {
		t.Errorf("%g allocations to store a message", got)
	}
	data := m.Encode()
	if got := testing.AllocsPerRun(100, func() { _, _ = Decode(data) }); got > 12 {
		t.Errorf("%g allocations to read a message with %d header lines", got, len(m.Header))
	}
}

func BenchmarkMessage(b *testing.B) {
	m := typical()
	data := m.Encode()
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Encode()
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
