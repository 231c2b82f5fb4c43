package queue

import (
	"math"
	"strings"
	"testing"
)

func TestID(t *testing.T) {
	for _, id := range []ID{{Seq: 1}, {Nonce: Nonce{0: 255, 15: 255}, Seq: math.MaxUint64}, {Nonce: Nonce{7: 1}, Seq: 123456}} {
		text := id.String()
		got, err := ParseID(text)
		if err != nil || got != id {
			t.Errorf("%s is read as %v, %v", text, got, err)
		}
		if len(text) > 40 {
			t.Errorf("%s is %d long", text, len(text))
		}
		for _, other := range []string{strings.ToUpper(text), text + " ", text + "-1", "0" + text, text[1:], strings.Replace(text, "-", "-0", 1), strings.Replace(text, "-", "-+", 1)} {
			if other == text {
				continue
			}
			if got, err := ParseID(other); err == nil {
				t.Errorf("%q is read as %v", other, got)
			}
		}
	}
	for _, text := range []string{"", "-", strings.Repeat("a", 26), strings.Repeat("a", 26) + "-", strings.Repeat("a", 26) + "-0", strings.Repeat("a", 25) + "b-1"} {
		if id, err := ParseID(text); err == nil {
			t.Errorf("%q is read as %v", text, id)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(ID{Seq: 5}.String())
	f.Add("x-1")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := ParseID(text); err == nil && id.String() != text {
			t.Errorf("%q is read as %v", text, id)
		}
	})
}
