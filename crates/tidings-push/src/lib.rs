//! Sends notifications to devices.
