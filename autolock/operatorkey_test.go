package autolock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// The text form is a promise to people who wrote it on paper.
func TestOperatorKeyTextIsStable(t *testing.T) {
	var k OperatorKey
	for i := range k.seed {
		k.seed[i] = byte(i)
	}
	const want = "RDTKEY-AAAQEAYE-AUDAOCAJ-BIFQYDIO-B4IBCEQT-CQKRMFYY-DENBWHA5-DYP6DWFZ-LQ"
	if got := k.String(); got != want {
		t.Fatalf("text is %s, want %s", got, want)
	}
	for _, text := range []string{want, strings.ToLower(want), " " + want + "\n", strings.ReplaceAll(want[7:], "-", " "), want[7:]} {
		if !strings.HasPrefix(strings.ToUpper(strings.TrimSpace(text)), KeyPrefix) {
			text = KeyPrefix + text
		}
		if got, err := ParseOperatorKey(text); err != nil || got != k {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestOperatorKeyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k OperatorKey
		copy(k.seed[:], rapid.SliceOfN(rapid.Byte(), KeyLen, KeyLen).Draw(t, "seed"))
		got, err := ParseOperatorKey(k.String())
		if err != nil || got != k {
			t.Fatal(err)
		}
	})
}

func TestEveryTypingMistakeIsFound(t *testing.T) {
	k := NewOperatorKey()
	text := k.String()
	for i := len(KeyPrefix); i < len(text); i++ {
		if text[i] == '-' {
			continue
		}
		for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" {
			if byte(c) == text[i] {
				continue
			}
			if _, err := ParseOperatorKey(text[:i] + string(c) + text[i+1:]); !errors.Is(err, ErrKeyChecksum) {
				t.Fatalf("character %d as %c: %v", i, c, err)
			}
		}
	}
	var length *KeyLengthError
	for text, want := range map[string]error{
		"":                       ErrKeyPrefix,
		"RDT1.abc":               ErrKeyPrefix,
		text[1:]:                 ErrKeyPrefix,
		text[:len(text)-1] + "1": ErrKeyChars,
		text[:len(text)-1] + "é": ErrKeyChars,
	} {
		if _, err := ParseOperatorKey(text); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	for _, text := range []string{KeyPrefix, text[:len(text)-1], text + "A", text + text, KeyPrefix + strings.Repeat("A", 1<<20)} {
		if _, err := ParseOperatorKey(text); !errors.As(err, &length) {
			t.Errorf("%v", err)
		}
	}
}

func TestOperatorKeyStaysOutOfLogs(t *testing.T) {
	k := NewOperatorKey()
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k)
	fmt.Fprintf(&out, "%#v", k)
	if _, err := json.Marshal(k); err == nil {
		t.Error("it was marshalled")
	}
	if strings.Contains(out.String(), k.String()[7:15]) || bytes.Contains(out.Bytes(), k.seed[:4]) {
		t.Errorf("the key is in %s", out.String())
	}
}

func TestSlotOpensWithItsKeyAlone(t *testing.T) {
	key, other := NewOperatorKey(), NewOperatorKey()
	slot := key.Slot()
	if err := CheckSlot(slot); err != nil {
		t.Fatal(err)
	}
	if again := key.Slot(); !bytes.Equal(again.Recipient, slot.Recipient) || again.Id == slot.Id {
		t.Error("a key's slots must share the recipient and not the id")
	}
	kek := bytes.Repeat([]byte{7}, KeyLen)
	c := SlotContext{ClusterID: "c", NodeID: "n", Epoch: 3}
	sealed, err := SealToSlot(slot, c, kek)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenSlot(slot, c, key.Seed(), sealed); err != nil || !bytes.Equal(got, kek) {
		t.Fatal(err)
	}
	if _, err := OpenSlot(slot, c, other.Seed(), sealed); !errors.Is(err, ErrWrongSeed) {
		t.Errorf("another key: %v", err)
	}
	sibling := key.Slot()
	for name, open := range map[string]func() error{
		"another node":  func() error { _, err := OpenSlot(slot, SlotContext{"c", "m", 3}, key.Seed(), sealed); return err },
		"another epoch": func() error { _, err := OpenSlot(slot, SlotContext{"c", "n", 4}, key.Seed(), sealed); return err },
		"another slot":  func() error { _, err := OpenSlot(sibling, c, key.Seed(), sealed); return err },
		"parts moved":   func() error { _, err := OpenSlot(slot, SlotContext{"cn", "", 3}, key.Seed(), sealed); return err },
		"damaged": func() error {
			_, err := OpenSlot(slot, c, key.Seed(), append(bytes.Clone(sealed[:99]), sealed[100:]...))
			return err
		},
		"short seed": func() error { _, err := OpenSlot(slot, c, key.Seed()[1:], sealed); return err },
	} {
		if err := open(); err == nil || errors.Is(err, ErrWrongSeed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckSlotSet(t *testing.T) {
	key := NewOperatorKey()
	made := 0
	slot := func() *keydpb.Slot {
		k := NewOperatorKey()
		s := k.Slot()
		made++
		s.Name = fmt.Sprint("slot", made)
		return s
	}
	many := make([]*keydpb.Slot, MaxSlots+1)
	for i := range many {
		many[i] = slot()
	}
	if err := CheckSlotSet(&keydpb.SlotSet{Epoch: 1, Slots: many[:MaxSlots]}); err != nil {
		t.Error(err)
	}
	twin := slot()
	for name, s := range map[string]*keydpb.SlotSet{
		"nil":             nil,
		"epoch 0":         {Slots: []*keydpb.Slot{slot()}},
		"no slot":         {Epoch: 1},
		"too many":        {Epoch: 1, Slots: many},
		"one slot twice":  {Epoch: 1, Slots: []*keydpb.Slot{twin, twin}},
		"one key twice":   {Epoch: 1, Slots: []*keydpb.Slot{key.Slot(), key.Slot()}},
		"nil slot":        {Epoch: 1, Slots: []*keydpb.Slot{nil}},
		"unknown kind":    {Epoch: 1, Slots: []*keydpb.Slot{{Id: twin.Id, Kind: 9, Recipient: twin.Recipient}}},
		"cut recipient":   {Epoch: 1, Slots: []*keydpb.Slot{{Id: twin.Id, Kind: 1, Recipient: twin.Recipient[1:]}}},
		"id that is path": {Epoch: 1, Slots: []*keydpb.Slot{{Id: "../x", Kind: 1, Recipient: twin.Recipient}}},
	} {
		if CheckSlotSet(s) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzParseOperatorKey(f *testing.F) {
	f.Add("RDTKEY-AAAQEAYE-AUDAOCAJ-BIFQYDIO-B4IBCEQT-CQKRMFYY-DENBWHA5-DYP6DWFZ-LQ")
	f.Add("rdtkey-")
	f.Add("RDTKEY-\x00")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseOperatorKey(text)
		if err != nil {
			if k != (OperatorKey{}) && errors.Is(err, ErrKeyChecksum) {
				t.Fatal("a refused key was handed out")
			}
			return
		}
		// What is accepted has one canonical form, and is it but for case and layout.
		layout := strings.NewReplacer(" ", "", "-", "", "\t", "", "\n", "", "\r", "", "\v", "", "\f", "", "\u0085", "", "\u00a0", "")
		if layout.Replace(strings.ToUpper(text)) != layout.Replace(k.String()) && !strings.EqualFold(layout.Replace(strings.TrimSpace(text)), layout.Replace(k.String())) {
			t.Fatalf("%q was read as another key", text)
		}
	})
}
